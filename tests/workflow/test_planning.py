"""What snakemake plans, without running it."""

import os
import re
from pathlib import Path

import pytest
import yaml
from warm_starts import run_python

pytestmark = pytest.mark.workflow

ROOT = Path(__file__).resolve().parents[2]


def planned(folder, *arguments):
    """Plan a study in a folder that is not the checkout; return how snakemake ended and what it printed."""
    words = [
        "-m",
        "snakemake",
        "-s",
        str(ROOT / "Snakefile"),
        "-d",
        str(folder),
        "-n",
        "--cores",
        "2",
        *arguments,
    ]
    return run_python(words, folder=ROOT, environment=os.environ)


def test_a_study_is_planned_from_any_folder(tmp_path):
    # The default, which has every stage; test_config.py reads all committed studies.
    study = ROOT / "config" / "default.yaml"
    done = planned(tmp_path, "--configfile", str(study), "--quiet", "progress")
    assert done.returncode == 0, done.stdout
    assert "results/default/report/index.html" in done.stdout


def test_trials_come_before_the_trainings_of_a_run_with_a_search(tmp_path):
    study = tmp_path / "searched study.yaml"
    search = {"lr": [0.01, 0.3]}
    run = {"optimizer": {"name": "sgd", "lr": 0.1}, "batch_size": 64, "epochs": 1}
    runs = {"tuned": run | {"search": search}, "fixed": run}
    dataset = {"name": "digits", "train_samples": 1000, "validation_samples": 300}
    study.write_text(
        yaml.safe_dump({"study": "searched", "dataset": dataset, "training": {"trials": 2, "runs": runs}})
    )
    done = planned(tmp_path, "-p", "--configfile", str(study))
    assert done.returncode == 0, done.stdout
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, flags=re.MULTILINE))
    assert jobs["tune"] == "1"
    assert "--tuning results/searched/tune/tuned/manifest.json" in done.stdout
    assert "tune/fixed" not in done.stdout


def test_the_cluster_profile_resolves_from_the_checkout_and_sets_what_jobs_need(workplace):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    output = workplace.snakemake("--profile", "cluster", "--dry-run", "--quiet", "progress")
    blocks = {block.split(":")[0].split()[-1]: block for block in output.split("rule ")[1:]}
    assert "slurm_partition=gpu" in blocks["train"]
    assert "srun --mpi=pmix" in blocks["train"]
    for stage in ("compress", "solve"):
        assert "slurm_partition=mpi" in blocks[stage]
        assert "tasks=<TBD>" in blocks[stage]  # known when the points are


def test_the_neutral_profile_sets_nothing_that_a_cluster_profile_sets():
    neutral, cluster = (
        yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text())
        for name in ("default", "cluster")
    )
    assert not neutral.keys() & cluster.keys()
    assert not neutral.keys() & {
        "cores",
        "jobs",
        "executor",
        "default-resources",
        "set-resources",
        "set-threads",
        "retries",
    }


def test_the_cluster_profile_names_only_rules_that_exist():
    cluster = yaml.safe_load((ROOT / "profiles" / "cluster" / "config.yaml").read_text())
    rules = {
        line.split()[1].rstrip(":")
        for file in (ROOT / "workflow" / "rules").glob("*.smk")
        for line in file.read_text().splitlines()
        if line.startswith("rule ")
    }
    assert set(cluster["set-resources"]) | set(cluster["set-threads"]) <= rules


def rules():
    """Every rule's text by its name."""
    found = {}
    for file in (ROOT / "workflow" / "rules").glob("*.smk"):
        parts = re.split(r"^rule (\w+):$", file.read_text(), flags=re.MULTILINE)
        found |= dict(zip(parts[1::2], parts[2::2], strict=True))
    return found


def stage_of(text):
    """The stage that a rule starts; None for the one that only writes specs."""
    found = re.search(r"-m pipeline (\w+)", text)
    return found and found[1]


def test_all_rules_are_seen():
    stages = {path.stem for path in (ROOT / "src" / "pipeline" / "stages").glob("*.py")} - {"__init__"}
    assert {stage_of(text) for text in rules().values()} == {*stages, None}


@pytest.mark.parametrize("name", sorted(rules()))
def test_a_rule_is_literal_and_complete(name):
    text = rules()[name]
    for part in ("log", "benchmark", "resources", "shell"):
        assert re.search(rf"^    {part}:$", text, flags=re.MULTILINE), f"rule {name} has no {part}"
    assert not re.search(r"^    (run|retries):", text, flags=re.MULTILINE)
    if name not in ("freeze_spec", "clean_checkpoints"):
        assert f'code=code_digest("pipeline.stages.{stage_of(text)}")' in text
        assert f"-m pipeline {stage_of(text)} --code" in text


def test_a_wrong_study_is_one_line_and_exit_code_2(tmp_path):
    change, words = "matrices={airports: {compress: {tolerance: 2}}}", "matrices.airports.compress.tolerance"
    done = planned(tmp_path, "--config", change)
    assert done.returncode == 2
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert words in errors[0]
    assert "Traceback" not in done.stdout
