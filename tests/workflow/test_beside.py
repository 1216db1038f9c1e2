"""Two studies of training that one call computes, the second beside the first."""

import copy
import json
import re

import pytest
import yaml

pytestmark = pytest.mark.workflow

ROLES = {"reference": "plain", "large_batch": "large", "second_order": "curved", "smoothed": "curved"}


@pytest.fixture
def studies(workplace, study):
    """A function that writes both studies; the rate is that of the second one's first run."""
    runs = study["training"]["runs"]
    study |= {"matrices": {}, "beside": {"second": "second.yaml"}}
    del study["precision"], study["scaling"]
    runs["large"] = copy.deepcopy(runs["plain"]) | {"batch_size": 64}
    study["training"]["claims"] = ROLES
    workplace.write_study(study)
    second = {key: copy.deepcopy(value) for key, value in study.items() if key != "beside"}
    second |= {"study": "second", "model": {"name": "mlp", "hidden": [8]}}

    def write(rate):
        second["training"]["runs"]["plain"]["optimizer"]["lr"] = rate
        (workplace.folder / "second.yaml").write_text(yaml.safe_dump(second))
        return second

    return write


def test_both_are_made_in_one_call_and_a_change_of_one_remakes_what_hangs_on_it(workplace, studies):
    studies(0.05)
    assert "beside it second with 3 trainings" in workplace.pipeline("check", "study.yaml")
    workplace.snakemake("--quiet", "all")
    reports = [workplace.folder / "results" / name / "report" for name in ("small", "second")]
    first, second = ((report / "index.html").read_text() for report in reports)
    assert "Do the claims hold in other studies?" in first
    assert "Do the claims hold in other studies?" not in second
    (link,) = re.findall(r'href="([^"]*second/report[^"]*)"', first)
    assert (reports[0] / link).resolve() == reports[1] / "index.html"
    metrics = json.loads((reports[0] / "metrics.json").read_text())
    assert not metrics["beside"]
    inputs = json.loads((reports[0] / "manifest.json").read_text())["spec"]["beside"]
    assert inputs == ["second"]
    # Alone, the second one is the same study.
    assert "Nothing to be done" in workplace.snakemake(study="second.yaml")
    studies(0.1)
    remade = {"results/second/train/plain/seed0"}
    planned = workplace.planned()
    assert remade < planned
    assert planned - remade == {"results/second/spec/training/plain.json", "results/second/report", "report"}


def test_a_failed_run_of_the_second_leaves_pages_of_both(workplace, studies, study):
    second = studies(0.05)
    second["training"] |= {"trials": 1}
    second["training"]["claims"] = None
    second["training"]["runs"]["own"] = second["training"]["runs"].pop("large")
    # Whatever is drawn from this range diverges.
    second["training"]["runs"]["plain"]["search"] = {"lr": [1e20, 1e21]}
    (workplace.folder / "second.yaml").write_text(yaml.safe_dump(second))
    refused = workplace.snakemake(
        "--quiet", "all", "--", "results/small/train/own/seed0/manifest.json", code=2
    )
    assert "error: the study small has no training own" in refused
    workplace.snakemake("--keep-going", "--quiet", "all", code=2)
    pages = [workplace.folder / "results" / name / "unfinished" for name in ("small", "second")]
    missing = [
        {one["artefact"]: one["reason"] for one in json.loads((page / "metrics.json").read_text())["missing"]}
        for page in pages
    ]
    assert missing[0] == {"second/report": "waits for second/tune/plain"}
    assert set(missing[1]) == {"tune/plain", "train/plain/seed0"}
