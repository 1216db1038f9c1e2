"""Every number of the page comes from the metrics, and those of figures lie beside them."""

import copy
import hashlib
import math
import re

import pytest
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from pages import Page, render
from pydantic import ValidationError

from pipeline.report.formatting import is_number


def numbers_in(value, path=()):
    """Paths of all numbers that reach the page one by one."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers_in(item, (*path, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from numbers_in(item, (*path, place))
    elif is_number(value):
        yield path


def test_numbers_of_figures_come_from_the_metrics(metrics, monkeypatch):
    """Figures are told by what is drawn in them: writing them takes nine tenths of a page's time."""

    def drawn(canvas, file, **_):
        of_lines = [line.get_xydata().tolist() for axes in canvas.figure.axes for line in axes.lines]
        of_points = [dots.get_offsets().tolist() for axes in canvas.figure.axes for dots in axes.collections]
        digest = hashlib.sha256(repr((of_lines, of_points)).encode()).hexdigest()
        file.write(f'<svg viewBox="0 0 1 1"><text>{digest}</text></svg>')

    monkeypatch.setattr(FigureCanvasSVG, "print_svg", drawn)
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda self: None)
    training, precision = ({part: metrics[part]} for part in ("training", "precision"))
    before = render(training, {}), render(precision, {})
    training["training"]["sgd_large"]["seeds"]["0"]["history"][7]["validation_accuracy"] = 0.5
    precision["precision"]["kfac_smooth"]["roofs"]["bandwidth"]["L3"] = 150.0
    assert render(training, {}) != before[0]
    assert render(precision, {}) != before[1]


def test_numbers_come_from_the_metrics(metrics, no_svg):
    """Change one number at a time: the words of the page must change with each of these."""
    light = copy.deepcopy(metrics)
    plan = metrics["precision"]["kfac_smooth"]["plans"]["64"]["accuracy"]
    paths = [
        ("study", "dataset", "train_samples"),
        ("study", "model", "n_parameters"),
        ("training", "sgd_small", "seeds", "0", "test", "accuracy"),
        ("training", "kfac", "seeds", "1", "test", "loss"),
        ("training", "kfac", "seeds", "1", "train", "loss"),
        ("training", "kfac_smooth", "seeds", "1", "steps"),
        ("training", "kfac", "seeds", "0", "history", -1, "n_retries"),
        *numbers_in(
            {key: plan[key] for key in ("fp16", "points_lost", "n_samples", "n_changed", "interval_lost")},
            ("precision", "kfac_smooth", "plans", "64", "accuracy"),
        ),
        ("precision", "kfac_smooth", "plans", "1", "accuracy", "fp32"),
        *numbers_in(
            metrics["precision"]["kfac_smooth"]["file_bytes"], ("precision", "kfac_smooth", "file_bytes")
        ),
        ("precision", "kfac_smooth", "layers", 4, "relative_error"),
        ("precision", "kfac_smooth", "timings", 8, "speedup"),
        ("precision", "kfac_smooth", "timings", 8, "seconds_fp16"),
        ("precision", "kfac_smooth", "plans", "64", "errors", 2, "relative_error"),
        ("precision", "kfac_smooth", "plans", "1", "errors", 2, "added_error"),
        ("precision", "kfac_smooth", "plans", "1", "errors", 2, "sqnr_db"),
        ("precision", "kfac_smooth", "plans", "1", "n_saturated"),
        ("precision", "kfac_smooth", "plans", "1", "verification", "output_error"),
        ("precision", "kfac_smooth", "timings", 8, "interval", 1),
        ("matrices", "airports", "compress", "n_bytes"),
        ("matrices", "airports", "compress", "levels", 1, "skeletons"),
        ("matrices", "airports", "solve", "logdet"),
        ("matrices", "airports", "solve", "exact_residual"),
        ("matrices", "airports", "solve", "relative_residual"),
        ("matrices", "airports", "nugget"),
        ("matrices", "airports", "compress", "n_rows"),
        ("matrices", "airports", "solve", "iterations"),
        *numbers_in(metrics["matrices"]["airports"]["result"], ("matrices", "airports", "result")),
        *numbers_in(metrics["matrices"]["capacitance"]["result"], ("matrices", "capacitance", "result")),
        ("matrices", "embeddings", "result", "softmax_accuracy"),
        ("scaling", "rows", 2, "factorize_seconds"),
        ("rules", 3, "seconds"),
    ]
    for matrix in light["matrices"].values():
        matrix["structure"]["blocks"] = []
    base = {part: render({part: light[part]}, {}) for part in light}
    for path in paths:
        part = copy.deepcopy({path[0]: light[path[0]]})
        holder = part
        for key in path[:-1]:
            holder = holder[key]
        whole = isinstance(holder[path[-1]], int)
        holder[path[-1]] = (math.ceil(1.37 * holder[path[-1]]) if whole else 1.37 * holder[path[-1]]) or 5
        assert render(part, {}) != base[path[0]], path


def test_numbers_that_are_not_known_print_as_a_dash(metrics, no_svg):
    network = metrics["precision"]["kfac_smooth"]
    for layer in network["layers"]:
        layer["sqnr_db"], layer["relative_error"] = None, float("nan")
    for row in network["timings"]:
        row["predicted_speedup"] = float("inf")
    page = Page(render({"precision": metrics["precision"]}, {})).words
    assert "–" in page
    for word in ("nan", "inf", "None"):
        assert not re.search(rf"\b{word}\b", page)


def test_a_key_less_or_of_another_name_is_refused_before_anything_is_drawn(metrics):
    """What a stage no longer writes is missed by name, and not left out in silence."""
    for path in (
        ("training", "kfac", "seeds", "0", "history", 3, "validation_accuracy"),
        ("training", "kfac", "optimizer"),
        ("precision", "kfac_smooth", "timings", 2, "seconds_fp16"),
        ("precision", "kfac_smooth", "plans", "64", "errors", 1, "added_error"),
        ("matrices", "airports", "compress", "tolerance"),
        ("matrices", "airports", "compress", "levels", 0, "skeletons"),
        ("matrices", "airports", "solve", "exact_residual"),
        ("scaling", "rows", 2, "factorize_seconds"),
    ):
        part = copy.deepcopy({path[0]: metrics[path[0]]})
        holder = part
        for key in path[:-1]:
            holder = holder[key]
        holder["renamed"] = holder.pop(path[-1])
        with pytest.raises(ValidationError, match=rf"{path[-1]}\n  Field required"):
            render(part, {})
