"""The documents hold what they say: their Python runs, their studies are valid, their links lead somewhere."""

import json
import logging
import re
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from pipeline.config.loading import load_study

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_PYTHON = [page for page in PAGES if "```python\n" in page.read_text()]


def _blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The first line's number, and the text, of each fenced block of a language."""
    text = page.read_text()
    found = re.finditer(rf"^( *)```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(2)].count("\n") + 1, dedent(match[2])) for match in found]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", WITH_PYTHON, ids=_name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.WARNING, "pipeline")
    names = {"__name__": "page"}
    for line, block in _blocks(page, "python"):
        # Lines keep their numbers, so that a failure points into the page.
        exec(compile("\n" * (line - 1) + block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_study_of_a_page_is_valid(page):
    for _, block in _blocks(page, "yaml"):
        study = yaml.safe_load(block)
        if "study" in study or study.get("training", {}).get("runs"):
            load_study({"study": "part"} | study, default=ROOT / "config" / "default.yaml")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_relative_link_of_a_page_leads_to_a_file(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target.split("#")[0]).exists()]
    assert missing == []


def test_the_goals_of_a_step_of_k_fac_are_those_of_the_recorded_run():
    recorded = json.loads((ROOT / "benchmarks/results/training.json").read_text())["cases"]
    steps = [
        case
        for case in recorded
        if case["quantity"] == "CPU time of a step, times SGD's" and (case["goal"] or "").startswith("ours")
    ]
    goals = dict.fromkeys(float(case["goal"].removeprefix("ours <= ")) for case in steps)
    row = re.search(r"^\| goal \| (.*) \|$", (ROOT / "docs/results.md").read_text(), re.MULTILINE)[1]
    assert [float(cell) for cell in row.split(" | ")] == list(goals)
    benchmark = (ROOT / "benchmarks/training.py").read_text()
    assert [float(goal) for goal in re.findall(r"cost\(run, \d+, goal=([\d.]+)", benchmark)] == list(goals)
    for case in steps:
        assert case["met"] == (case["ours"] <= float(case["goal"].removeprefix("ours <= ")))
