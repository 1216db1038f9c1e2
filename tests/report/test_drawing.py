import re

import matplotlib

from pipeline.report.drawing import PALETTE, canvas, finish, identifier, stroke
from pipeline.report.page import _environment


def draw(name: str, text: str = "text") -> str:
    with canvas(2, 2) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=PALETTE["series-2"])
        axes.set_title(text)
        return str(finish(figure, name=name, description="A line.").svg)


def test_colors_of_the_palette_become_variables_and_text_stays_text():
    svg = draw("a", "cost in $ and #cc5500 <b>")
    assert "var(--series-2, #cc5500)" in svg
    assert "cost in $ and #cc5500 &lt;b&gt;" in svg


def test_ids_differ_between_drawings_and_are_the_same_each_time():
    first, second = draw("a"), draw("b")
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0].isdisjoint(ids[1])
    assert draw("a") == first


def test_names_that_differ_get_ids_that_differ():
    names = ["a b", "a-b", "a/b", "漢", "字", "<a b>"]
    assert len({identifier(name) for name in names}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9-]+", identifier(name)) for name in names)


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    draw("a")
    assert dict(matplotlib.rcParams) == before


def test_the_style_sheet_has_every_color_of_the_palette():
    sheet = _environment().get_template("style.css").render()
    for variable, color in PALETTE.items():
        assert f"--{variable}: {color}" in sheet
        assert len(re.findall(rf"--{variable}: #", sheet)) == 2  # light and dark


def test_series_do_not_look_alike():
    looks = [stroke(index) for index in range(24)]
    assert len(set(looks)) == 24
