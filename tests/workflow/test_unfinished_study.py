"""A study in which a job fails leaves a page of what is there; when all is made, the report takes its place."""

import json

import pytest

pytestmark = pytest.mark.workflow


def test_a_failed_matrix_leaves_a_page_that_says_so_and_shows_the_rest(workplace, study):
    for part in ("training", "precision", "scaling"):
        del study[part]
    study["matrices"] = {name: study["matrices"][name] for name in ("airports", "ball")}
    # What no rounding can reach is refused.
    study["matrices"]["airports"]["compress"]["tolerance"] = 1e-16
    workplace.write_study(study)
    said = workplace.snakemake("--keep-going", "--quiet", "all", code=2)
    page = workplace.results / "unfinished" / "index.html"
    assert f"The page of what is there, and of what is missing: {page.relative_to(workplace.folder)}" in said
    assert "not asked for the page" not in said
    metrics = json.loads(page.with_name("metrics.json").read_text())
    reasons = {one["artefact"]: one["reason"] for one in metrics["missing"]}
    assert "ask for a larger tolerance" in reasons.pop("compress/airports")
    assert reasons == {"solve/airports": "waits for compress/airports"}
    assert list(metrics["matrices"]) == ["ball"]
    assert "2 results missing" in page.read_text().replace("\N{NO-BREAK SPACE}", " ")
    del study["matrices"]["airports"]
    workplace.write_study(study)
    workplace.snakemake("--quiet", "all")
    assert not page.exists()
    assert (workplace.results / "report" / "index.html").exists()
