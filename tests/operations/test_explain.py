from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.artifacts.history import merge
from pipeline.config.specs import specs
from pipeline.operations import explain
from pipeline.operations.studies import read_study

DRY_RUN = """Building DAG of jobs...
[Mon Nov 23 03:19:14 2026]
rule compress:
    input: results/tiny/points/one/manifest.json
    output: results/tiny/compress/one/manifest.json
    jobid: 4
    reason: Params have changed since last execution: Union: before: 'a' now: 'b'
    wildcards: study=tiny

[Mon Nov 23 03:19:14 2026]
localrule all:
    jobid: 0
    reason: Input files updated by another job
"""


@pytest.fixture
def planned(monkeypatch):
    """A function that sets what snakemake would run."""

    def set_plan(*jobs):
        monkeypatch.setattr(explain, "plan", lambda _study, _target: list(jobs))

    return set_plan


def told(capsys, path):
    assert main(["explain", str(path)]) == 0
    return capsys.readouterr().out


def test_a_dry_run_is_read_by_output_rule_and_reason():
    assert explain.jobs_planned(DRY_RUN) == [
        ("results/tiny/compress/one/manifest.json", "compress", "Params have changed since last execution")
    ]


def test_who_where_what_and_from_what(checkout, write, planned, capsys):
    planned()
    points = write("points/one", kind="points")
    manifest = write("solve/one", inputs={"points": str(points)}, gpus=["A100"], slurm_job="42", dirty=True)
    for path in (manifest, manifest.parent, manifest.parent / "index.html"):
        words = told(capsys, path)
        assert "results/tiny/solve/one: solution, made by rule solve on 2026-01-01 00:00 UTC" in words
        assert "commit aaaaaaaa, with changes that were not committed, code digest c" in words
        assert "h (one, 2 cores, A100), Slurm job 42" in words
        assert "1 min 15 s, 2 GB at most in one process, 1234 J by the node's processors" in words
        assert "From: points results/tiny/points/one" in words
        assert "Now: up to date" in words


def test_why_it_was_made_is_told_by_the_run_before(checkout, write, planned, capsys):
    planned()
    results = Path("results")
    write("solve/one")
    assert "not there before" in told(capsys, results / "tiny/solve/one")
    merge(results, "tiny", [results / "tiny/solve/one/manifest.json"])
    write("solve/one", date="2026-01-02T00:00:00+00:00", code="d")
    assert "its code changed (digest c to d) since the run of 2026-01-01" in told(
        capsys, results / "tiny/solve/one"
    )
    merge(results, "tiny", [results / "tiny/solve/one/manifest.json"])
    write("solve/one", date="2026-01-03T00:00:00+00:00", code="d")
    assert "neither code nor specs changed" in told(capsys, results / "tiny/solve/one")


def test_a_report_counts_the_artefacts_that_it_is_made_from(checkout, write, edit, planned, capsys):
    planned()
    manifest = write("report", kind="report", command="python -m pipeline report")
    edit(manifest, spec=specs(read_study("tiny").study)["report"])
    words = told(capsys, manifest)
    counted = "dataset (1), train (8), convert (1), time_layers (1), points"
    assert f"From: {counted}" in words
    assert f"- an input: {counted}" in words


def test_an_older_report_whose_runs_had_their_seeds_in_common_is_read(checkout, write, edit, planned, capsys):
    planned()
    manifest = write("report", kind="report")
    spec = specs(read_study("tiny").study)["report"]
    n_runs = len(spec["runs"])
    edit(manifest, spec=spec | {"seeds": [0, 1, 2]})
    assert f"train ({3 * n_runs})" in told(capsys, manifest)


def test_what_would_make_it_again_now(checkout, write, planned, capsys):
    manifest = write("solve/one")
    planned((str(manifest), "solve", "Params have changed since last execution"), ("x", "compress", "Code"))
    words = told(capsys, manifest)
    assert (
        "Now: it would be made again: Params have changed since last execution; its code has digest" in words
    )
    assert "Before it: compress (Code)" in words


def test_an_altered_file_is_named_with_what_to_do(checkout, write, planned, capsys):
    planned()
    manifest = write("solve/one")
    (manifest.parent / "index.html").write_text("altered")
    words = told(capsys, manifest)
    assert "Files: altered or lost: index.html" in words
    assert (
        "Now: damaged (index.html), and nothing would make it again; delete results/tiny/solve/one/" in words
    )


@pytest.mark.parametrize("path", ["results/tiny/solve/gone", "config/tiny.yaml", "/etc/passwd", "../.."])
def test_what_is_no_artefact_is_one_line(checkout, path, capsys):
    assert main(["explain", path]) == 2
    assert "manifest.json" in capsys.readouterr().err


def test_an_artefact_of_no_study_here_is_one_line(checkout, write, capsys, tmp_path):
    manifest = write("solve/one")
    manifest.parent.rename(tmp_path / "elsewhere")
    assert main(["explain", str(tmp_path / "elsewhere")]) == 2
    assert "not an artefact of a study below results" in capsys.readouterr().err
