import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pipeline.py"
HEADER = "s\th:m:s\tmax_rss\tmax_vms\n"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("pipeline_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pipeline_benchmark", module)
    spec.loader.exec_module(module)
    return module


def write_job(results, job, seconds, max_rss):
    path = results / "tiny" / "benchmarks" / f"{job}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEADER}{seconds}\t0:00:01\t{max_rss}\t1.0\n")


def write_jobs(results):
    write_job(results, "report", 0.1, "-")
    write_job(results, "dataset", 1.5, 200.25)
    write_job(results, "train/sgd/seed0", 3.0, 700.5)
    write_job(results, "train/sgd/seed1", 4.0, 600.0)


def test_jobs_are_added_up_by_rule_and_the_longest_comes_first(script, tmp_path):
    write_jobs(tmp_path)
    assert script.rule_uses(tmp_path) == [
        script.RuleUse("train", 2, 7.0, 700.5),
        script.RuleUse("dataset", 1, 1.5, 200.25),
        script.RuleUse("report", 1, 0.1, None),
    ]


def test_no_benchmark_files_are_no_rules(script, tmp_path):
    assert script.rule_uses(tmp_path) == []


@pytest.fixture
def commands(script, monkeypatch, tmp_path):
    """Snakemake's place is taken by a function that writes the benchmark files; gives what was asked of it."""
    asked = []

    def run(command, **_options):
        asked.append(command)
        folder = Path(command[command.index("--directory") + 1])
        write_jobs(folder / "results")
        said = "Nothing to be done." if len(asked) == 2 else "1 of 1 steps (100%) done"
        return subprocess.CompletedProcess(command, 0, stdout=said)

    monkeypatch.setattr(script.subprocess, "run", run)
    monkeypatch.setattr(script.bench, "results", tmp_path / "results")
    return asked


@pytest.fixture
def only_snakemake_is_replaced(script, monkeypatch):
    """Describing the machine runs git and uname, which is not what these tests are about."""
    frame = sys.modules["_frame"]
    monkeypatch.setattr(frame, "commit", lambda folder: "a commit")
    monkeypatch.setattr(frame, "machine", lambda: {"processor": "one", "cores": 1})


@pytest.mark.usefixtures("only_snakemake_is_replaced")
def test_the_study_runs_twice_and_every_rule_is_told(script, commands, tmp_path):
    assert script.bench.main(["--cores", "3"]) == 0
    assert len(commands) == 2
    assert commands[0] == commands[1]
    assert commands[0][-4:-1] == ["--cores", "3", "--configfile"]
    assert commands[0][-1].endswith("config/tiny.yaml")
    cases = json.loads((tmp_path / "results" / "pipeline.json").read_text())["cases"]
    told = {(case["case"], case["quantity"]): case for case in cases}
    assert told["study/train", "time of 2 jobs [s]"]["ours"] == 7.0
    assert told["study/train", "peak memory [MB]"]["ours"] == 700.5
    assert ("study/report", "peak memory [MB]") not in told
    assert told["study/whole tiny", "wall time [s]"]["goal"] == "ours <= 90"
    assert told["study/nothing to do", "wall time [s]"]["goal"] == "ours <= 5"


@pytest.mark.usefixtures("only_snakemake_is_replaced")
def test_a_second_run_with_something_to_do_is_a_crash(script, commands, capsys):
    commands.append("so that the second run is taken for a third")
    assert script.bench.main(["--study", "default"]) == 1
    assert "was to find nothing to do" in capsys.readouterr().err


@pytest.mark.usefixtures("only_snakemake_is_replaced")
def test_a_failed_run_shows_snakemake_s_last_words(script, monkeypatch, tmp_path, capsys):
    failed = subprocess.CompletedProcess([], 1, stdout="x" * 9000 + "the last words")
    monkeypatch.setattr(script.subprocess, "run", lambda command, **_options: failed)
    monkeypatch.setattr(script.bench, "results", tmp_path)
    assert script.bench.main([]) == 1
    assert "the last words" in capsys.readouterr().err


SNAKEFILE = """
rule all:
    input: "results/tiny/made"

rule make:
    output: "results/tiny/made"
    benchmark: "results/tiny/benchmarks/make/one.tsv"
    shell: "echo done > {output}"
"""


@pytest.mark.workflow
@pytest.mark.usefixtures("only_snakemake_is_replaced")
def test_a_real_snakemake_s_files_and_words_are_understood(script, monkeypatch, tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "tiny.yaml").write_text("study: tiny\n")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script.bench, "results", tmp_path / "results")
    assert script.bench.main(["--cores", "1"]) == 0
    cases = json.loads((tmp_path / "results" / "pipeline.json").read_text())["cases"]
    assert [case["case"] for case in cases if "memory" not in case["quantity"]] == [
        "study/make",
        "study/whole tiny",
        "study/nothing to do",
    ]
