"""The documents hold what they say: their Python runs, their studies are valid, their links lead somewhere."""

import inspect
import json
import logging
import re
import tomllib
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from typical_roofs import take_typical_roofs

from pipeline.config.loading import load_study

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "config" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_PYTHON = [page for page in PAGES if "```python\n" in page.read_text()]
WITH_STUDIES = [page for page in PAGES if "```yaml\n" in page.read_text()]


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
    take_typical_roofs(monkeypatch)
    caplog.set_level(logging.WARNING, "pipeline")
    names = {"__name__": "page"}
    for line, block in _blocks(page, "python"):
        # Lines keep their numbers, so that a failure points into the page.
        exec(compile("\n" * (line - 1) + block, str(page), "exec"), names)


@pytest.mark.parametrize("page", WITH_STUDIES, ids=_name)
def test_every_study_of_a_page_is_valid(page):
    for _, block in _blocks(page, "yaml"):
        study = yaml.safe_load(block)
        if "study" in study or study.get("training", {}).get("runs"):
            load_study({"study": "part"} | study, default=ROOT / "config" / "default.yaml")


def _without_code(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST (up to the third level) make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,3} (.+)$", _without_code(page), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        places = (anchor if number == 0 else f"{anchor}-{number}" for number in range(len(found) + 1))
        found.add(next(place for place in places if place not in found))
    return found


def _broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading of a page."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page)):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if ":" not in target and not (file.exists() and (not anchor or anchor in _anchors(file))):
            broken.append(target)
    return broken


def test_every_relative_link_of_a_page_leads_to_a_file_or_a_heading():
    broken = {_name(page): _broken_links(page) for page in PAGES}
    assert {page: links for page, links in broken.items() if links} == {}


def test_a_link_to_a_heading_that_is_not_there_is_broken(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# One\n\n## K-FAC's `step`, twice\n\n## One\n\n```\n# no heading\n```\n")
    good = ["https://example.org#x", "#here", "other.md#k-facs-step-twice", "other.md#one-1", "other.md"]
    bad = ["#there", "other.md#no-heading", "other.md#One", "none.md", "none.md#one"]
    page.write_text("# Here\n" + "\n".join(f"[text]({target})" for target in [*good, *bad]))
    assert _broken_links(page) == bad


# Packages whose names are for other modules of their core, not for users.
INTERNAL = {
    "pipeline.data.tables",
    "pipeline.hmatrix.batched",
    "pipeline.hmatrix.parts",
    "pipeline.precision.onnx_operators",
    "pipeline.training.structures",
}
LIBRARIES = ("data", "hmatrix", "meshes", "models", "precision", "training")
PUBLIC = sorted(
    {
        ".".join(file.relative_to(ROOT / "src").parent.parts)
        for library in LIBRARIES
        for file in (ROOT / "src" / "pipeline" / library).rglob("__init__.py")
        if "__all__" in file.read_text()
    }
    - INTERNAL
)


def _in_the_reference() -> set[int]:
    """The identities of all objects that the directives of the reference name."""
    found = set()
    directive = re.compile(r"^\.\. (auto\w+|py:data):: ([\w.]+)\n((?:   :.*\n)*)", re.MULTILINE)
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        for kind, path, options in directive.findall(page.read_text()):
            package, _, name = path.rpartition(".")
            if kind != "automodule":
                found.add(id(getattr(import_module(package), name)))
                continue
            module = import_module(path)
            left_out = re.search(r":exclude-members: (.*)", options)
            shown = set(getattr(module, "__all__", ())) - set(left_out[1].split(", ") if left_out else ())
            # Sphinx shows the classes and functions of a module that have a docstring; other objects need a directive.
            objects = [getattr(module, name) for name in shown]
            found |= {
                id(one) for one in objects if (inspect.isclass(one) or inspect.isroutine(one)) and one.__doc__
            }
            found.add(id(module))
    return found


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_of_a_package_is_in_the_reference(package):
    module, shown = import_module(package), _in_the_reference()
    assert [name for name in module.__all__ if id(getattr(module, name)) not in shown] == []


def test_every_example_has_its_picture_on_the_page_of_examples():
    page = (ROOT / "docs" / "examples.md").read_text()
    for example in sorted((ROOT / "examples").glob("ex[0-9][0-9]_*.py")):
        assert f"](images/{example.stem}.png)" in page
        assert f"](../examples/{example.name})" in page
    pictures = (ROOT / "docs" / "images").iterdir()
    assert sum(picture.stat().st_size for picture in pictures) < 1e6


def test_one_version_is_told_everywhere():
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert import_module("pipeline").__version__ == cited["version"] == version
    assert f"\n## {version} ({cited['date-released']})\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_picture_of_the_architecture_names_every_stage_and_every_layer():
    names = set(re.findall(r"<text[^>]*>([^<]*)</text>", (ROOT / "docs/images/architecture.svg").read_text()))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    floors = project["tool"]["importlinter"]["contracts"][0]["layers"]
    layers = {name.removeprefix("pipeline.") for floor in floors for name in floor.split(" | ")}
    stages = {file.stem for file in (ROOT / "src/pipeline/stages").glob("[!_]*.py")}
    assert layers | stages <= names


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
