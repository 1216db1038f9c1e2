"""What is recorded is what ran: code that changes before a run, or while it goes on."""

import pytest

pytestmark = pytest.mark.workflow

POINTS = "results/small/points/ball/manifest.json"
COMPRESSED = "results/small/compress/ball/manifest.json"

# When the points have been made, the code of the stage behind them changes: no faster editor could be waited for.
EDITOR = """
import atexit
from pathlib import Path

if {"pipeline", "points"} <= set(sys.orig_argv):
    stage = Path(__file__).parent / "pipeline" / "stages" / "compress.py"
    atexit.register(lambda: stage.write_text(stage.read_text() + "UNUSED = 1\\n"))
"""


def errors_in(output):
    return [line for line in output.splitlines() if line.startswith("error: ")]


def test_a_native_module_of_other_sources_is_refused_in_one_line_before_anything_starts(workplace):
    source = workplace.folder / "src" / "pipeline" / "hmatrix" / "native" / "product.cpp"
    source.write_text(source.read_text() + "\n")
    # What a build would make again can still be asked.
    assert "compress/ball" in workplace.planned()
    output = workplace.snakemake(POINTS, code=2)
    (error,) = errors_in(output)
    assert error.startswith("error: pipeline.hmatrix._native: was built from other sources than those in ")
    assert error.endswith("; run: make env")
    assert "Traceback" not in output
    assert not workplace.results.exists()
    assert not list((workplace.folder / ".snakemake").glob("*.lock"))


def test_a_job_refuses_to_run_code_that_changed_after_it_was_planned(workplace):
    with (workplace.folder / "src" / "sitecustomize.py").open("a") as file:
        file.write(EDITOR)
    output = workplace.snakemake(COMPRESSED, code=2)
    assert "error: software: the code of compress has changed since this job was planned; run again" in output
    assert (workplace.folder / POINTS).exists()
    assert not (workplace.folder / COMPRESSED).exists()
    # Nobody edits any more: the same command then makes the rest with the new code.
    site = workplace.folder / "src" / "sitecustomize.py"
    site.write_text(site.read_text().replace(EDITOR, ""))
    workplace.snakemake(COMPRESSED)
    assert "Nothing to be done" in workplace.snakemake(COMPRESSED)
