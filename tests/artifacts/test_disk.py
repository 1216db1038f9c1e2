import os

import pytest

from pipeline.artifacts.disk import date_after

HOUR = 3600 * 10**9


@pytest.fixture
def artefact(tmp_path):
    (tmp_path / "made").mkdir()
    for name in ("array.npy", "manifest.json"):
        (tmp_path / "made" / name).touch()
    return tmp_path / "made" / "manifest.json"


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.json"
    path.touch()
    return path


def move(path, nanoseconds):
    time = path.stat().st_mtime_ns + nanoseconds
    os.utime(path, ns=(time, time))
    return time


def test_an_artefact_of_a_node_whose_clock_is_behind_is_not_older_than_its_inputs(artefact, spec):
    future = move(spec, HOUR)
    date_after(artefact, [spec])
    assert artefact.stat().st_mtime_ns == future
    assert (artefact.parent / "array.npy").stat().st_mtime_ns == future


def test_an_artefact_that_is_newer_keeps_its_date(artefact, spec):
    move(spec, -HOUR)
    before = artefact.stat().st_mtime_ns
    date_after(artefact, [spec])
    assert artefact.stat().st_mtime_ns == before


def test_what_is_not_there_or_made_from_nothing_is_left_alone(artefact, spec):
    before = artefact.stat().st_mtime_ns
    date_after(artefact, [])
    date_after(artefact.with_name("missing"), [spec])
    assert artefact.stat().st_mtime_ns == before
