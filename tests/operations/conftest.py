"""A folder that looks like a checkout, with a study whose jobs are done."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.store import create

ROOT = Path(__file__).resolve().parents[2]
MADE = {
    "date": "2026-01-01T00:00:00+00:00", "commit": "a" * 40, "dirty": False, "code": "c", "host": "h", "cpu": "one",
    "cores": 2, "python": "3.11", "command": "python -m pipeline solve", "inputs": {},
    "cost": {"seconds": 75.0, "peak_memory_bytes": 2e9, "package_joules": 1234.0},
}  # fmt: skip


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The working folder: what commands look at of a checkout, and no results."""
    for name in ("config", "workflow", "profiles"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("Snakefile", "Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "cluster").symlink_to("profiles/cluster")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write():
    """A function that writes an artefact of a study as a job does."""

    def write(artefact, study="tiny", kind="solution", value=1.0, **made):
        manifest = Path("results") / study / artefact / "manifest.json"
        with create(
            manifest, kind=kind, spec={"tolerance": 1e-3}, provenance=Provenance(**MADE | made)
        ) as draft:
            draft.save_text("index.html", f"<html>{value}</html>")
            draft.facts["result"] = {"accuracy": value}
        return manifest

    return write


@pytest.fixture
def edit():
    """A function that changes values of a manifest."""

    def edit(manifest, **changes):
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))

    return edit
