"""The database of past runs."""

import json
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pipeline.artifacts.entry import figures_of
from pipeline.artifacts.history import (
    database_of,
    manifests_of,
    merge,
    read,
    read_snapshot,
    snapshot_of,
    write_snapshot,
)
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.store import create
from pipeline.errors import ArtifactError

MADE = {"date": "2026-01-01T00:00:00+00:00", "cpu": "one", "cores": 2, "code": "c", "commit": "a" * 40}


def write(
    results, artefact="solve/one", *, date="2026-01-01", value=1.0, spec=None, inputs=None, kind="solution"
):
    """One artefact of a study, as a job writes it."""
    made = MADE | {"date": f"{date}T00:00:00+00:00", "inputs": inputs or {}, "cost": {"seconds": 2.0}}
    manifest = results / "s" / artefact / "manifest.json"
    with create(manifest, kind=kind, spec=spec or {}, provenance=Provenance(**made)) as draft:
        draft.facts |= {
            "result": {"accuracy": value, "name": "x", "done": True, "list": [1]},
            "ratio": float("nan"),
        }
    return manifest


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def values(results):
    return [entry.figures["result.accuracy"] for entry in read(results)]


def test_every_run_is_remembered_once_in_the_order_of_their_dates(results):
    for day, value in ((2, 0.5), (1, 0.25), (3, 0.75)):
        manifest = write(results, date=f"2026-01-0{day}", value=value)
        assert merge(results, "s", [manifest]) == 1
        assert merge(results, "s", [manifest]) == 0
    assert values(results) == [0.25, 0.5, 0.75]


def test_seconds_that_contained_a_fit_are_not_compared_with_those_beside_one(tmp_path):
    def figures(facts):
        return figures_of(
            {"facts": facts, "provenance": {}, "kind": "operator"}, tmp_path, tmp_path / "none.tsv"
        )

    old = {"compress": {"seconds": 9.0}, "fit": {"steps": 3}}
    assert figures(old) == {"compress.seconds": 9.0, "fit.steps": 3.0}
    new = {"compress": {"seconds": 2.0}, "fit": {"steps": 3, "seconds": 7.0}}
    assert figures(new) == {"compress.seconds_without_fit": 2.0, "fit.steps": 3.0, "fit.seconds": 7.0}
    assert figures({"compress": {"seconds": 2.0}, "fit": None}) == {"compress.seconds": 2.0}


def test_numbers_of_facts_and_costs_are_figures_and_all_else_is_not(results):
    merge(results, "s", [write(results)])
    assert read(results)[0].figures == {"result.accuracy": 1.0, "cost.seconds": 2.0}


def test_snakemakes_benchmark_and_the_tables_of_an_artefact_are_figures(results):
    manifest = write(results, "time_layers/one", kind="timings")
    row = {"layer": "fc", "batch": 64, "reason": "x"}
    rows = [row | {"mode": "network", "speedup": 1.5}, row | {"mode": "cold", "speedup": 2.5}]
    (manifest.parent / "timings.json").write_text(json.dumps(rows))
    benchmark = results / "s" / "benchmarks" / "time_layers" / "one.tsv"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text("s\th:m:s\tmax_rss\tcpu_time\n1.5\t0:00:01\t20.0\tNA\n")
    merge(results, "s", [manifest])
    figures = read(results)[0].figures
    assert (figures["fc.64.network.speedup"], figures["fc.64.cold.speedup"]) == (1.5, 2.5)
    assert (figures["job_seconds"], figures["job_max_rss_mb"]) == (1.5, 20.0)
    assert "job_cpu_seconds" not in figures


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"kind": 1, "provenance": {}}', b"\x89PNG"])
def test_a_broken_or_missing_manifest_is_passed_over(results, content):
    manifest = write(results)
    if isinstance(content, bytes):
        manifest.write_bytes(content)
    else:
        manifest.write_text(content)
    assert merge(results, "s", [manifest, results / "s" / "solve" / "gone" / "manifest.json"]) == 0


def test_a_spec_behind_an_input_makes_another_lineage(results):
    lineages = []
    for tolerance in (1, 1, 2):
        points = write(results, "points/one", spec={"tolerance": tolerance})
        solved = write(results, inputs={"points": str(points)}, value=float(len(lineages)))
        merge(results, "s", [solved])
        lineages.append(read(results)[-1].lineage)
    assert lineages[0] == lineages[1] != lineages[2]


def test_a_circle_of_inputs_ends(results):
    manifest = write(results)
    write(results, inputs={"itself": str(manifest)})
    assert merge(results, "s", [manifest]) == 1


def test_jobs_read_a_snapshot_and_never_the_database(results):
    assert read_snapshot(snapshot_of(results, "s")) == []
    merge(results, "s", [write(results)])
    write_snapshot(results, "s")
    assert read_snapshot(snapshot_of(results, "s")) == read(results)
    snapshot_of(results, "s").write_text("[{}]")
    with pytest.raises(ArtifactError, match="not a snapshot of the history"):
        read_snapshot(snapshot_of(results, "s"))


def test_manifests_of_all_depths_are_found(results):
    for artefact in ("dataset", "solve/one", "train/run/seed0", "past_reports/20260101T000000"):
        write(results, artefact)
    found = [path.parent.relative_to(results / "s").as_posix() for path in manifests_of(results / "s")]
    assert found == ["dataset", "solve/one", "train/run/seed0"]


def test_a_full_disk_is_told_as_one_and_no_history_is_to_be_moved_away(results, monkeypatch):
    merge(results, "s", [])
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4096))
    monkeypatch.setattr(
        "pipeline.artifacts.history.SCHEMA", "CREATE TABLE runs (id)"
    )  # fails as a write does
    with pytest.raises(ArtifactError, match=r"cannot be used \(.*\); the disk is full, so free some space"):
        merge(results, "s", [])


def test_a_file_that_is_no_database_is_one_line(results):
    database_of(results).parent.mkdir(parents=True)
    database_of(results).write_bytes(b"not a database, " * 100)
    with pytest.raises(ArtifactError, match="the history cannot be used"):
        merge(results, "s", [])


WRITER = """
import sys
from pathlib import Path
from pipeline.artifacts.history import merge
for number in range(5):
    results = Path(sys.argv[1])
    merge(results, "s", sorted((results / "s").glob(f"{sys.argv[2]}{number}/*/manifest.json")))
"""


def test_several_writers_on_one_node_lose_nothing(results):
    for writer in "abc":
        for number in range(5):
            write(results, f"{writer}{number}/one", value=float(number))
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(results), writer]) for writer in "abc"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    assert len(read(results)) == 15
    database = sqlite3.connect(database_of(results))
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
