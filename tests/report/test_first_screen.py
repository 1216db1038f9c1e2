"""What a reader sees first: what is missing or changed, and the verdicts."""

import re

from pages import Page, render, sections

from pipeline.report.content import Illustration
from pipeline.report.first_screen import pictures
from pipeline.report.metrics import Metrics
from pipeline.report.sections.matrices import matrices_section

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


def test_what_moved_beyond_the_noise_of_past_runs_is_told_with_the_commits_between():
    page = render({"history": HISTORY}, {}).replace("\N{NO-BREAK SPACE}", " ")
    assert "40 figures of 5 artefacts were compared with up to 7 past runs" in page
    assert "1 moved beyond their noise, 1 of them for the worse" in page
    assert "solve/&lt;m&gt; cost.seconds" in page
    assert "0.8000 to 1.200" in page
    assert "Make it &lt;slower&gt;; on purpose" in page


def test_a_study_like_its_past_says_so_and_one_without_past_says_nothing():
    assert "none moved beyond their noise" in render({"history": HISTORY | {"changes": []}}, {})
    for history in (None, HISTORY | {"n_figures": 0, "changes": [], "commits": []}):
        assert "Against past runs" not in render({"history": history}, {})


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


def test_results_of_other_options_than_before_are_named_on_top(no_svg):
    def top(**parts):
        page = render({"history": HISTORY | parts}, {})
        words = Page(re.search(r'<p class="change">.*?</p>', page, flags=re.DOTALL).group()).words
        return words.replace("\N{NO-BREAK SPACE}", " ")

    other = "2 results have other options than in the run before: compress/airports and solve/airports."
    found = top(respecified=["compress/airports", "solve/airports"])
    assert "1 figure changed, 1 for the worse" in found.replace(" ,", ",")
    assert "solve/<m> cost.seconds from 1.00 to 3.00 (worse)" in found
    assert other in found
    unmoved = top(respecified=["compress/airports", "solve/airports"], changes=[])
    assert "Nothing else changed" in unmoved
    assert other in unmoved
    alone = top(respecified=["a"], n_figures=0, changes=[])
    assert "Other options" in alone
    assert "1 result has other options than in the run before: a." in alone
    assert "a, b, c and 2 more." in top(respecified=["a", "b", "c", "d", "e"])
    assert "other options" not in top()


def test_the_verdict_stands_below_the_headline(metrics, no_svg):
    answer = re.search(r'<section class="answer".*?</section>', render(metrics, {}), flags=re.DOTALL).group()
    assert re.search(r'<span class="verdict (holds|undecided|does-not-hold)">', answer)


MISSING = [
    {"artefact": "train/sgd_small/seed1", "reason": "the loss is not finite at step 17; lower lr"},
    {"artefact": "solve/airports", "reason": "waits for solve <b>"},
]


def test_what_is_missing_stands_on_top_with_its_reason_and_the_rest_is_shown(metrics, no_svg):
    del metrics["training"]["sgd_small"]["seeds"]["1"]
    page = render(metrics | {"missing": MISSING}, {})
    top = Page(re.search(r'<p class="change alarm">.*?</p>', page, flags=re.DOTALL).group()).words
    assert "This study is not finished: 2 results missing" in top.replace("\N{NO-BREAK SPACE}", " ")
    assert "train/sgd_small/seed1: the loss is not finite at step 17; lower lr; solve/airports: waits" in top
    assert sections(page)[:2] == ["missing", "steps"]
    assert "solve &lt;b&gt;" in page
    many = Page(render({"missing": MISSING * 3}, {})).words
    assert "; and 3 more" in many


def drawn(metrics, arrays):
    """The names of the panels on the first screen, and of those among the matrices."""
    on_top = [panel.name for picture in pictures(metrics, arrays) for panel in picture.panels]
    blocks = matrices_section(metrics, arrays).blocks
    return on_top, [
        panel.name for block in blocks if isinstance(block, Illustration) for panel in block.panels
    ]


def test_a_map_stands_on_top_with_its_deviations_beside_it_and_once(metrics, arrays, no_svg):
    found = Metrics.model_validate({"study": {"name": "rain"}, "matrices": metrics["matrices"]})
    on_top, below = drawn(found, arrays)
    assert on_top == ["first-map-airports", "std-airports"]
    assert "scatter-airports" in below
    assert not any("map-" in name or "std-" in name for name in below)


def test_beside_trainings_the_map_of_deviations_stays_with_its_matrix(metrics, arrays, no_svg):
    on_top, below = drawn(Metrics.model_validate(metrics), arrays)
    assert len(on_top) == 2
    assert on_top[1] == "first-map-airports"
    assert below.count("std-airports") == 1
    assert not any("map-" in name for name in below)


def test_a_matrix_that_was_not_solved_shows_its_compression(metrics, no_svg):
    metrics["matrices"]["airports"] |= {"solve": None, "result": None}
    words = Page(render({"matrices": metrics["matrices"]}, {})).words
    assert "The airports matrix is compressed, and its task was not done." in words


def test_a_network_that_was_not_timed_shows_its_conversion(metrics):
    network = {
        key: metrics["precision"]["kfac_smooth"][key]
        for key in ("seed", "budget_points", "file_bytes", "layers")
    }
    words = Page(render({"precision": {"kfac_smooth": network}}, {})).words
    assert "Conversion to FP16, layer by layer" in words
