"""The workflow as a module of another folder, as `snakedeploy` writes it."""

import os
import shutil
from pathlib import Path

import pytest
from warm_starts import run_python

pytestmark = pytest.mark.workflow

ROOT = Path(__file__).resolve().parents[2]
DEPLOYED = """\
configfile: "config/config.yaml"

module parsimony:
    snakefile:
        "{snakefile}"
    config:
        config

use rule * from parsimony
"""


@pytest.fixture
def snakemake(tmp_path):
    """A function that runs Snakemake in a folder that holds a deployed Snakefile and the configuration."""
    (tmp_path / "workflow").mkdir()
    snakefile = ROOT / "workflow" / "Snakefile"
    (tmp_path / "workflow" / "Snakefile").write_text(DEPLOYED.format(snakefile=snakefile))
    shutil.copytree(ROOT / "config", tmp_path / "config")

    def snakemake(*arguments):
        command = ["-m", "snakemake", "--cores", "2", "--quiet", "progress", *arguments]
        return run_python(command, folder=tmp_path, environment=os.environ | {"OMP_NUM_THREADS": "1"})

    return snakemake


def test_a_deployed_folder_computes_an_artefact_of_its_own_study(snakemake, tmp_path):
    wanted = "results/config/points/sphere/manifest.json"
    done = snakemake("--", wanted)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / wanted).is_file()


def test_a_deployed_folder_plans_the_whole_study_by_itself(snakemake):
    done = snakemake("--dry-run")
    assert done.returncode == 0, done.stdout
    assert "results/config/report/index.html" in done.stdout
