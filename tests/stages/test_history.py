"""What the report tells of the runs before it."""

from dataclasses import replace
from pathlib import Path

from pipeline.artifacts.entry import HistoryEntry
from pipeline.stages import report

EARLY = HistoryEntry(
    study="own",
    artefact="compress/own",
    kind="operator",
    date="2026-01-01T00:00:00+00:00",
    manifest="first",
    stamp="",
    lineage="loose",
    machine="here",
    code="",
    commit_id=None,
    dirty=False,
    host="here",
    slurm_job=None,
    figures={"compress.n_bytes": 5.0},
)
LATER = replace(EARLY, manifest="second", date="2026-01-02T00:00:00+00:00", lineage="tight")
NOW = replace(EARLY, manifest="third", date="2026-01-03T00:00:00+00:00")


def told(monkeypatch, past, now):
    monkeypatch.setattr(report, "read_snapshot", lambda _: past)
    monkeypatch.setattr(report, "entry_of", lambda *_, **__: now)
    return report._history(Path("own.json"), [Path("manifest.json")], Path())


def test_a_result_of_other_options_than_in_the_run_before_is_named(monkeypatch):
    assert told(monkeypatch, [EARLY], LATER).respecified == ["compress/own"]
    assert told(monkeypatch, [EARLY, LATER], NOW).respecified == ["compress/own"]  # back to what it was
    assert told(monkeypatch, [EARLY], NOW).respecified == []


def test_a_result_is_not_compared_with_itself(monkeypatch):
    assert told(monkeypatch, [EARLY, LATER], LATER).respecified == ["compress/own"]
    assert told(monkeypatch, [LATER], LATER).respecified == []


def test_what_the_last_page_told_is_not_told_again(monkeypatch):
    page = replace(EARLY, artefact="report", manifest="page", date="2026-01-02T12:00:00+00:00")
    assert told(monkeypatch, [EARLY, LATER, page], LATER).respecified == []
    assert told(monkeypatch, [EARLY, LATER, page], NOW).respecified == ["compress/own"]
