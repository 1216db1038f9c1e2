import copy
import json
import re

import numpy as np
import pytest
from pages import Page, render, sections

from pipeline.report import Metrics
from pipeline.report.content import Heading, Illustration, NamedValues, Table, Verdicts
from pipeline.report.sections import SECTIONS


def test_the_full_page_is_well_formed_with_unique_ids(full):
    page = Page(full)
    assert len(page.ids) == len(set(page.ids))
    assert {"steps", "bits", "numbers", "time", "provenance"} <= set(page.ids)


def test_the_page_loads_nothing_from_anywhere(full):
    for link in Page(full).links:
        assert link.startswith(("#", "data:"))
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|\bimport\b ?\(", full)
    assert "<script src" not in full
    # A data set's source may be an address, but only as text.
    assert not re.search(r'=\s*"?https?:', full)


def test_every_local_link_has_its_target(full):
    page = Page(full)
    targets = {link[1:] for link in page.links if link.startswith("#")} | set(
        re.findall(r"url\(#([^)]+)\)", full)
    )
    assert targets <= set(page.ids)


def test_the_page_is_small(full):
    assert len(full.encode()) < 3e6


def test_every_drawing_has_words_in_its_place(full):
    panels = re.findall(r'<div role="img" aria-label="([^"]+)"', full)
    assert len(panels) == full.count('class="panel"') >= 12
    assert all(len(words) > 25 for words in panels)


def test_tables_have_captions_and_header_cells(full):
    tables = re.findall(r"<table.*?</table>", full, flags=re.DOTALL)
    assert tables
    folded = full.count("<summary>")
    assert sum("<caption>" not in table for table in tables) == folded > 0
    for table in tables:
        assert 'scope="col"' in table
        assert 'scope="row"' in table


def test_data_of_figures_lie_where_they_are_drawn(full):
    found = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', full)]
    assert len(found) > 12
    for data in found:
        assert all(len(row) == len(data["columns"]) for row in data["rows"])
        assert data["places"] or data.get("grid")
        assert len(data["places"]) <= len(data["rows"])
    (curve,) = (
        d for d in found if d["columns"][-2:] == ["quantity", "value"] and len(d["rows"]) == 2 * 4 * 2 * 20
    )
    seeds = {(row[0], row[1]) for row in curve["rows"]}
    assert len(seeds) == 8


def test_the_same_metrics_give_the_same_page(full, metrics, arrays):
    assert render(metrics, arrays) == full


def test_figures_follow_the_theme_of_the_page(full):
    assert "var(--series-3, #0a6cb4)" in full
    assert "prefers-color-scheme: dark" in full


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        ((), ["steps", "bits", "numbers", "time", "provenance"]),
        (("training",), ["bits", "numbers", "time", "provenance"]),
        (("precision",), ["steps", "numbers", "time", "provenance"]),
        (("matrices",), ["steps", "bits", "numbers", "time", "provenance"]),
        (("matrices", "scaling"), ["steps", "bits", "time", "provenance"]),
        (("rules", "provenance"), ["steps", "bits", "numbers"]),
        (("training", "precision", "matrices", "scaling", "rules", "provenance"), []),
    ],
)
def test_a_section_is_there_if_its_part_is(metrics, no_svg, gone, left):
    for matrix in metrics["matrices"].values():
        matrix["structure"]["blocks"] = matrix["structure"]["blocks"][:50]
    for key in gone:
        del metrics[key]
    page = render(metrics, {})
    Page(page)
    assert sections(page) == left


def test_a_change_of_nothing_has_no_sign_of_a_loss(metrics):
    for network in metrics["precision"].values():
        for plan in network["plans"].values():
            plan["accuracy"] |= {"points_lost": 0.0, "interval_lost": [-0.0, 0.0]}
    page = render({"precision": metrics["precision"]}, {})
    assert "<span>0 (0 to 0)</span>" in page
    assert not re.search(r"[−+-]0\.000\b", page)


def test_empty_parts_have_no_section(metrics):
    empty = {key: type(value)() for key, value in metrics.items() if key not in ("study", "scaling")}
    assert sections(render(empty, {})) == []


def test_an_empty_study_is_a_page_too():
    assert "no results yet" in Page(render({}, {})).words


def test_claims_are_absent_without_roles(metrics, arrays, no_svg):
    metrics["claims_of"] = None
    page = render({key: metrics[key] for key in ("study", "training", "claims_of")}, arrays)
    assert "Verdict" not in page
    assert "best test accuracy" in page


def test_one_seed_renders_without_a_spread(metrics, no_svg):
    for run in metrics["training"].values():
        del run["seeds"]["1"]
    page = Page(render({"training": metrics["training"], "claims_of": metrics["claims_of"]}, {})).words
    assert page.count("undecided") >= 5  # four claims and the headline
    assert "86.44 " in page
    for of_several in (
        "86.44 ±",
        "standard deviation",
        "over seeds",
        "over all seeds",
        "a run's mean",
        "the first seed",
    ):
        assert of_several not in page


def test_one_run_is_not_called_the_best(metrics, no_svg):
    only = {"kfac": metrics["training"]["kfac"]}
    page = Page(render({"training": only}, {})).words.replace("\N{NO-BREAK SPACE}", " ")
    assert "best" not in page
    assert re.search(r"1 run; K-FAC , batch 1024 with 85\.\d+ ± [\d.]+ % on the test set", page)


def test_a_long_table_is_folded_and_keeps_its_number(metrics, no_svg):
    metrics = {"precision": metrics["precision"]}
    layers = metrics["precision"]["kfac_smooth"]["layers"]
    short = Page(render(metrics, {}))
    assert not re.search(r"Conversion to FP16, layer by layer\. \d+ rows", short.words)
    layers += [layers[0] | {"name": f"more{place}"} for place in range(13 - len(layers))]
    long = Page(render(metrics, {}))
    assert long.tags["details"] == long.tags["summary"] == short.tags["details"] + 1
    assert long.tags["table"] == short.tags["table"] == long.tags["caption"] + long.tags["details"]
    assert re.search(r"Table \d+\. Conversion to FP16, layer by layer\. 13 rows", long.words)


def test_a_matrix_without_its_blocks_still_shows_its_storage(metrics):
    del metrics["matrices"]["airports"]["structure"]
    page = Page(render({"matrices": {"airports": metrics["matrices"]["airports"]}}, {}))
    assert "121 MB (53× less than dense, 6.41 GB)" in page.words.replace("\N{NO-BREAK SPACE}", " ")
    assert page.tags.get("figure", 0) == 0


HOSTILE = "<script>alert('1')</script> & \"$x^2$\" %s {{ 7 * 7 }} {% raw %} 漢字 #1c2026 N^2"


def rename(value):
    if isinstance(value, dict):
        return {key: rename(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rename(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def test_hostile_text_stays_text(metrics, arrays):
    for matrix in metrics["matrices"].values():
        matrix["structure"]["blocks"] = matrix["structure"]["blocks"][:50]
    hostile = rename(metrics)
    hostile["claims_of"] = metrics["claims_of"]
    for part in ("training", "precision", "matrices"):
        hostile[part] = {f"{HOSTILE} {place}": item for place, item in enumerate(hostile[part].values())}
    names = list(hostile["training"])
    hostile["claims_of"] = dict(zip(metrics["claims_of"], names, strict=True))
    moved = {key.replace("airports/", f"{HOSTILE} 0/"): array for key, array in arrays.items()}
    text = render(hostile, moved)
    page = Page(text)
    assert (
        page.tags["script"] == text.count('<script type="application/json">') + 1
    )  # data of figures, and our own
    assert "<script>alert('1')</script>" in page.words
    assert "{{ 7 * 7 }}" in page.words
    assert len(page.ids) == len(set(page.ids))


def test_a_map_needs_a_grid_and_points_need_their_values(metrics, arrays, no_svg):
    matrices = {"airports": metrics["matrices"]["airports"]}
    matrices["airports"]["structure"]["blocks"] = []
    assert render({"matrices": matrices}, {}).count('class="panel"') == 0
    grid = {key: array for key, array in arrays.items() if "grid" in key and "std" not in key}
    # A map among the first pictures is not drawn again below.
    assert render({"matrices": matrices}, grid).count('class="panel"') == 1
    assert render({"matrices": matrices}, arrays).count('class="panel"') == 5
    arrays["airports/grid"] = np.full_like(arrays["airports/grid"], np.nan)
    assert render({"matrices": matrices}, arrays).count('class="panel"') == 4


def test_figures_come_before_tables_in_every_part(metrics, arrays, no_svg):
    study = Metrics.model_validate({"study": {"name": "default"}} | metrics)
    n_figures = 0
    for section in filter(None, (make(study, arrays) for make in SECTIONS)):
        tables_began = False
        for block in section.blocks:
            if isinstance(block, Heading):  # of another matrix or network, or of another look at it
                tables_began = False
            elif isinstance(block, Illustration):
                assert not tables_began, (section.title, block.caption)
                n_figures += 1
            tables_began |= isinstance(block, Table | Verdicts | NamedValues)
    assert n_figures > 6


def test_times_that_were_not_taken_alone_are_marked_wherever_they_are_compared(metrics, no_svg):
    for part in ("matrices", "precision", "scaling"):
        alone = {part: copy.deepcopy(metrics[part])}
        what = "Other work" if part == "precision" else "Other jobs of the study"
        mark = f"{what} ran on the same machine meanwhile"
        assert mark not in Page(render(alone, {})).words
        for item in [alone[part]] if part == "scaling" else alone[part].values():
            item["alone"] = False
        assert mark in Page(render(alone, {})).words


def test_plus_minus_is_defined_once_and_used_for_nothing_else(full):
    words = Page(full).words
    assert "± is their standard deviation, on the whole page" in words
    claims = re.search(r"What is claimed.*?</table>", full, flags=re.DOTALL).group()
    assert "±" not in claims


def test_reasons_have_the_full_width_of_their_table(full):
    table = re.search(r"<table[^>]*>(?:(?!</table>).)*Output SQNR.*?</table>", full, flags=re.DOTALL).group()
    assert table.count('<tr role="row" class="details"><td role="cell" colspan="5">') == 6


def test_a_long_command_takes_one_line(metrics):
    metrics["provenance"]["command"] = "python -m pipeline report " + 40 * "results/a/manifest.json "
    text = render({"provenance": metrics["provenance"]}, {})
    assert re.search(r'<div class="line"><dt>Command</dt><dd tabindex="0">python', text)


def test_a_study_that_tunes_names_its_best_on_the_validation_set(metrics, no_svg):
    for accuracy, run in zip((0.81, 0.84, 0.83, 0.82), metrics["training"].values(), strict=True):
        for seed in run["seeds"].values():
            del seed["test"]
            seed["validation"] = {"accuracy": accuracy, "loss": 0.5}
    metrics["claims_of"] = None
    page = render(metrics, {})
    assert "the best on the validation set is SGD, batch 1024 with 84.00" in page
    assert "the test set was not looked at" in page


def test_of_very_many_runs_curves_show_those_of_the_claims(metrics, no_svg):
    for i in range(6):
        metrics["training"][f"more{i}"] = copy.deepcopy(metrics["training"]["sgd_small"])
    page = render(metrics, {})
    assert "The runs that the claims compare, by epoch" in page
    assert "Validation accuracy, by epoch: SGD, batch 64 ends at" in page


def test_the_key_to_curves_shows_dashes_where_two_share_a_color(metrics, no_svg):
    for i in range(4):
        metrics["training"][f"more{i}"] = copy.deepcopy(metrics["training"]["sgd_small"])
    keys = re.findall(r'--series:var\(--([\w-]+)\)"><path class="line" d="[^"]+"(.*?)/>', render(metrics, {}))
    looks = keys[: len(metrics["training"])]
    assert len(set(looks)) == len(looks) > len({color for color, _ in looks})
    assert [bool(dashes) for _, dashes in looks] == [place >= 6 for place in range(len(looks))]


def test_a_run_has_one_color_in_curves_and_tables(metrics, no_svg):
    """Also where curves show the runs of the claims alone, which are the last of many."""
    first = metrics["training"]["sgd_small"]
    metrics["training"] = {f"more{i}": copy.deepcopy(first) for i in range(5)} | metrics["training"]
    for name, run in metrics["training"].items():
        run["label"] = name
    page = render(metrics, {})
    curves = _colors(r'--series:var\(--([\w-]+)\)">.*?</svg>\s*(\w+)', page)
    rows = _colors(r'class="swatch" style="background:var\(--([\w-]+)\)"></i>(\w+)', page)
    assert "The runs that the claims compare" in page
    assert curves
    assert curves.items() <= rows.items()


def _colors(pattern: str, page: str) -> dict[str, str]:
    """The color of each name: pairs of the two are what the pattern finds."""
    return {name: color for color, name in re.findall(pattern, page)}


def test_runs_of_different_numbers_of_seeds_are_told_as_such(metrics, no_svg):
    metrics = {key: metrics[key] for key in ("study", "training", "claims_of")}
    metrics["study"]["seeds"] = list(range(10))
    shared = next(iter(metrics["training"].values()))["seeds"]["0"]
    for n_seeds, run in zip((10, 5, 10, 5, 10), metrics["training"].values(), strict=False):
        run["seeds"] = {str(seed): shared for seed in range(n_seeds)}
    assert "5 to 10 a run, see its final scores" in render(metrics, {})
    for first, run in enumerate(metrics["training"].values()):
        run["seeds"] = {str(first + seed): shared for seed in range(2)}
    assert "2 a run, of 0, 1, 2, 3" in render(metrics, {})
