"""The description of an archive, before the validator of RO-Crates."""

import json
import subprocess
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.config.specs import artefacts_of, specs
from pipeline.operations.studies import read_study

ROOT = Path(__file__).resolve().parents[2]
VALIDATOR = ROOT / "build" / "validator" / "bin" / "python"
# What an archive does not know: who ran it, who publishes it, and where its code lives.
UNKNOWN = [
    "Action agent",
    "Application url",
    "Main Workflow Bioschemas compliance",
    "Root Data Entity: `author` property",
    "Root Data Entity: `publisher` property",
    "SoftwareApplication id",
]


@pytest.mark.skipif(not VALIDATOR.exists(), reason="`make test` installs the validator of RO-Crates")
def test_an_archive_is_a_crate_of_workflow_runs(checkout, write, tmp_path):
    for name in [*artefacts_of(specs(read_study("tiny").study)["report"]), "report"]:
        write(name)
    points = write("points/airports", kind="points")
    write("solve/airports", inputs={"points": str(points)}, dirty=True)
    (checkout / "README.md").write_text("# Parsimony\n")
    assert main(["archive", "--study", "tiny", "--output", "out.tar.gz"]) == 0
    assert main(["verify", "out.tar.gz", "--into", "elsewhere"]) == 0
    (top,) = (tmp_path / "elsewhere").iterdir()
    done = subprocess.run(
        [VALIDATOR, ROOT / "tests/crate/validate.py", top], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"REQUIRED": [], "RECOMMENDED": UNKNOWN}
