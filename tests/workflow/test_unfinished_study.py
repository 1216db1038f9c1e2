"""A study in which a job fails leaves a page of what is there; when all is made, the report takes its place."""

import json

import pytest

pytestmark = pytest.mark.workflow


def test_a_diverged_seed_leaves_a_page_that_says_so_and_shows_the_rest(workplace, study):
    study["training"]["runs"]["plain"]["optimizer"]["lr"] = 1e30
    for part in ("precision", "scaling"):
        del study[part]
    study["matrices"] = {"ball": study["matrices"]["ball"]}
    workplace.write_study(study)
    said = workplace.snakemake("--keep-going", "--quiet", "all", code=2)
    page = workplace.results / "unfinished" / "index.html"
    assert f"The page of what is there, and of what is missing: {page.relative_to(workplace.folder)}" in said
    metrics = json.loads(page.with_name("metrics.json").read_text())
    (missing,) = metrics["missing"]
    assert missing["artefact"] == "train/plain/seed0"
    assert "training.runs.plain, seed 0: " in missing["reason"]
    assert "lower lr" in missing["reason"]
    assert list(metrics["training"]) == ["curved"]
    assert list(metrics["matrices"]) == ["ball"]
    assert "1 result missing" in page.read_text().replace("\N{NO-BREAK SPACE}", " ")
    study["training"]["runs"]["plain"]["optimizer"]["lr"] = 0.05
    workplace.write_study(study)
    workplace.snakemake("--quiet", "all")
    assert not page.exists()
    assert (workplace.results / "report" / "index.html").exists()
