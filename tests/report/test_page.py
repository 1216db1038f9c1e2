import copy
import json
import math
import re
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.report import Metrics
from pipeline.report import render as render_metrics
from pipeline.report.content import Heading, Illustration, NamedValues, Table, Verdicts
from pipeline.report.formatting import is_number
from pipeline.report.sections import SECTIONS


def render(parts: dict, arrays: dict[str, np.ndarray]) -> str:
    """The page of a study of these parts."""
    return render_metrics(Metrics.model_validate({"study": {"name": "default"}} | parts), arrays)


VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Check nesting while parsing; keep text, ids, attributes and headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.links, self.labels, self.text = [], [], [], [], []
        self.tags: dict[str, int] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for key, value in attributes:
            if key == "id":
                self.ids.append(value)
            elif key in ("href", "xlink:href", "src"):
                self.links.append(value)
            elif key == "aria-label":
                self.labels.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', page)


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


def test_the_same_metrics_give_the_same_page(full, metrics, arrays):
    assert render(metrics, arrays) == full


def test_figures_follow_the_theme_of_the_page(full):
    assert "var(--series-3, #0a6cb4)" in full
    assert "prefers-color-scheme: dark" in full


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


def test_numbers_of_figures_come_from_the_metrics(metrics):
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
        ("training", "kfac", "seeds", "0", "kfac", "n_retries"),
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


HOSTILE = "<script>alert('1')</script> & \"$x^2$\" %s {{ 7 * 7 }} {% raw %} 漢字 #1c2026 N^2"


def rename(value):
    if isinstance(value, dict):
        return {key: rename(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rename(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def test_hostile_text_stays_text(metrics, arrays):
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
    # The predicted map is among the first pictures, too.
    assert render({"matrices": matrices}, grid).count('class="panel"') == 2
    assert render({"matrices": matrices}, arrays).count('class="panel"') == 6
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
    mark = "Other jobs of the study ran on the same machine meanwhile"
    for part in ("matrices", "precision", "scaling"):
        alone = {part: copy.deepcopy(metrics[part])}
        assert mark not in Page(render(alone, {})).words
        for item in [alone[part]] if part == "scaling" else alone[part].values():
            item["alone"] = False
        assert mark in Page(render(alone, {})).words


def test_plus_minus_is_defined_once_and_used_for_nothing_else(full):
    words = Page(full).words
    assert "± is their standard deviation, on the whole page" in words
    claims = re.search(r"What is claimed.*?</table>", full, flags=re.DOTALL).group()
    assert "±" not in claims


def test_the_verdict_stands_below_the_headline(full):
    answer = re.search(r'<section class="answer".*?</section>', full, flags=re.DOTALL).group()
    assert re.search(r'<span class="verdict (holds|undecided|does-not-hold)">', answer)


def test_reasons_have_the_full_width_of_their_table(full):
    table = re.search(r"<table[^>]*>(?:(?!</table>).)*Output SQNR.*?</table>", full, flags=re.DOTALL).group()
    assert table.count('<tr role="row" class="details"><td role="cell" colspan="5">') == 6


def test_a_long_command_takes_one_line(metrics):
    metrics["provenance"]["command"] = "python -m pipeline report " + 40 * "results/a/manifest.json "
    text = render({"provenance": metrics["provenance"]}, {})
    assert re.search(r'<div class="line"><dt>Command</dt><dd tabindex="0">python', text)


HISTORY = {
    "n_figures": 40,
    "n_artefacts": 5,
    "n_runs": 7,
    "changes": [
        {"artefact": "solve/<m>", "figure": "cost.seconds", "value": 3.0, "typical": 1.0, "low": 0.8, "high": 1.2,
         "n": 7, "verdict": "worse"},
    ],
    "commits": ["abc1234 Make it <slower>; on purpose"],
}  # fmt: skip


def test_what_moved_beyond_the_noise_of_past_runs_is_told_with_the_commits_between(metrics, arrays, no_svg):
    page = render(metrics | {"history": HISTORY}, arrays).replace("\N{NO-BREAK SPACE}", " ")
    assert "40 figures of 5 artefacts were compared with up to 7 past runs" in page
    assert "1 moved beyond their noise, 1 of them for the worse" in page
    assert "solve/&lt;m&gt; cost.seconds" in page
    assert "0.8000 to 1.200" in page
    assert "Make it &lt;slower&gt;; on purpose" in page


def test_a_study_like_its_past_says_so_and_one_without_past_says_nothing(metrics, arrays, no_svg):
    assert "none moved beyond their noise" in render(metrics | {"history": HISTORY | {"changes": []}}, arrays)
    for history in (None, HISTORY | {"n_figures": 0, "changes": [], "commits": []}):
        assert "Against past runs" not in render(metrics | {"history": history}, arrays)


def test_what_changed_stands_on_top(metrics, no_svg):
    def top(history):
        page = render({"history": history}, {})
        return Page(re.search(r'<p class="change">.*?</p>', page, flags=re.DOTALL).group()).words

    assert "There is no past run" in top(None)
    assert "Nothing changed" in top(HISTORY | {"changes": []})
    found = top(HISTORY).replace("\N{NO-BREAK SPACE}", " ")
    assert "1 figure changed , 1 for the worse" in found.replace("changed,", "changed ,")
    assert "solve/<m> cost.seconds from 1.00 to 3.00 (worse)" in found
    many = HISTORY | {"changes": HISTORY["changes"] * 5}
    assert "and 2 more" in top(many)


def test_data_of_figures_lie_where_they_are_drawn(full):
    found = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', full)]
    assert len(found) > 12
    for data in found:
        assert all(len(row) == len(data["columns"]) for row in data["rows"])
        assert len(data["places"]) in (0, len(data["rows"]))
    (curve,) = (
        d for d in found if d["columns"][-2:] == ["quantity", "value"] and len(d["rows"]) == 2 * 4 * 2 * 20
    )
    seeds = {(row[0], row[1]) for row in curve["rows"]}
    assert len(seeds) == 8


def test_text_stands_out_from_its_background():
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text, on white and on black paper alike."""
    sheet = (files("pipeline.report") / "templates" / "style.css").read_text()
    for theme in sheet.split("@media screen and (prefers-color-scheme: dark)"):
        colors = dict(re.findall(r"--([\w-]+): (#\w{6})", theme.split("* {")[0]))
        for name in ("ink", "muted", "good", "bad", "open", "series-3"):
            for background in ("paper", "wash"):
                assert contrast(colors[name], colors[background]) >= 4.5, (name, background)


def contrast(one: str, two: str) -> float:
    """The ratio of relative luminances, as WCAG 2.2 defines them."""

    def luminance(color):
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


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
