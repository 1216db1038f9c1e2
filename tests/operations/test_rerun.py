import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.artifacts.history import read
from pipeline.artifacts.lock import hold
from pipeline.operations import leftovers, rerun
from pipeline.operations.past_reports import keep_report, past_reports
from pipeline.operations.studies import find_profile

# A job that says that it runs and then waits for the end of its input.
WAITS = "import sys; print(flush=True); sys.stdin.read()"


@pytest.fixture
def snakemake(checkout, monkeypatch):
    """A function that has a shell script stand in for snakemake."""
    monkeypatch.setattr(leftovers, "jobs_of", lambda _folder: [])

    def stand_in(script):
        monkeypatch.setattr(rerun, "command_of", lambda *_: ["sh", "-c", script])

    return stand_in


def line_of(capsys, code):
    assert main(["rerun", "--study", "tiny", "--keep", "2"]) == code
    (line,) = capsys.readouterr().out.splitlines()
    return line


def test_nothing_to_be_done_is_unchanged(snakemake, capsys):
    snakemake("echo 'Nothing to be done (all requested files are present and up to date).'")
    assert line_of(capsys, 0).startswith("rerun tiny: unchanged, nothing to be done")


def test_a_rerun_tells_jobs_and_figures_remembers_them_and_keeps_the_report(snakemake, write, capsys):
    write("solve/one")
    report = write("report", kind="report")
    changes = [{"verdict": "worse"}, {"verdict": "better"}]
    report.with_name("metrics.json").write_text(json.dumps({"history": {"n_figures": 9, "changes": changes}}))
    snakemake("echo '1 of 2 jobs'; echo 'tiny: 2 of 2 jobs done in 4 s'")
    line = line_of(capsys, 0)
    assert line.startswith("rerun tiny: rerun, 2 jobs in ")
    assert "2 figures beyond the noise of past runs (1 worse); report results/tiny/report/index.html" in line
    assert {entry.artefact for entry in read(Path("results"))} == {"solve/one", "report"}
    assert len(past_reports(Path("results/tiny"))) == 1


def test_a_failure_names_the_rule_the_reason_and_the_log_and_exits_1(snakemake, capsys):
    snakemake("echo 'Error in rule train, job 2 (log a)'; echo '    error: cuda was asked for'; exit 1")
    line = line_of(capsys, 1)
    assert re.search(r"failed after \d+ s in train: cuda was asked for; log results/tiny/logs/rerun/", line)
    assert "Error in rule train" in Path(line.rpartition("log ")[2]).read_text()


def test_a_signal_is_named(snakemake, capsys):
    snakemake("kill -9 $$")
    assert re.search(r"failed after \d+ s, ended by SIGKILL; log ", line_of(capsys, 1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--study", "gone"], "there is no config/gone.yaml"), (["--profile", "gone"], "no profile 'gone'")],
)
def test_bad_input_exits_2(checkout, arguments, words, capsys):
    assert main(["rerun", "--study", "tiny", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_wrong_study_exits_2_and_starts_nothing(snakemake, checkout, capsys):
    snakemake("touch started")
    (checkout / "config" / "tiny.yaml").write_text("study: tiny\nseedz: [1]\n")
    assert main(["rerun", "--study", "tiny"]) == 2
    assert "did you mean 'seeds'" in capsys.readouterr().err
    assert not (checkout / "started").exists()


@pytest.mark.parametrize("lock", ["main", "rerun"])
def test_a_held_lock_is_respected_and_its_holder_named(snakemake, checkout, lock, capsys):
    snakemake("touch started")
    with hold(checkout, name=lock):
        assert f"process {os.getpid()} on " in line_of(capsys, 1)
    assert not (checkout / "started").exists()


def test_jobs_of_a_former_start_are_waited_for(snakemake, checkout, monkeypatch, capsys):
    snakemake("touch started")
    monkeypatch.setattr(leftovers, "jobs_of", lambda _folder: ["17", "18"])
    assert "Slurm still has jobs of this checkout (17, 18); nothing was started" in line_of(capsys, 1)
    monkeypatch.setattr(leftovers, "jobs_of", lambda _folder: [])
    words = ["pipeline", "train", "--output", "x"]
    job = subprocess.Popen([sys.executable, "-c", WAITS, *words],
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    with job:
        job.stdout.readline()
        assert (
            f"still run here: x (process {job.pid}); wait until it ends, or end it: kill {job.pid}; n"
            in line_of(capsys, 1)
        )
    assert not (checkout / "started").exists()
    assert line_of(capsys, 0)


def test_of_a_job_that_still_runs_the_launcher_is_named_and_what_it_makes(checkout):
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAITS!r}, *sys.argv[1:]])"
    words = ["pipeline", "train", "--output", "results/tiny/train/sgd/seed0/manifest.json"]
    command = [sys.executable, "-c", launcher, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as job:
        job.stdout.readline()
        assert leftovers.local_jobs(checkout) == {job.pid: "results/tiny/train/sgd/seed0"}
        assert leftovers.in_words({7: "a", 5: "b"}) == (
            "b (process 5), a (process 7); wait until they end, or end them: kill 5 7"
        )
        job.stdin.close()
    assert leftovers.local_jobs(checkout) == {}


def test_ending_a_rerun_ends_what_it_started(snakemake, checkout):
    script = (
        "from pipeline.operations import rerun\nfrom pathlib import Path\n"
        "raise SystemExit(rerun._snakemake(['sh', '-c', 'echo $$ >child; exec sleep 60'], Path('log'), 1) == -15)"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    child = checkout / "child"
    deadline = time.monotonic() + 30
    while not (child.exists() and child.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(child.read_text()), 0)


def test_what_a_job_of_slurm_was_given_is_not_passed_on(snakemake, checkout, monkeypatch, capsys):
    snakemake("env | grep -E '^(SLURM|SBATCH)_' >given")
    for name in ("SLURM_CONF", "SLURM_MEM_PER_NODE", "SBATCH_PARTITION"):
        monkeypatch.setenv(name, "x")
    line_of(capsys, 0)
    assert (checkout / "given").read_text() == "SLURM_CONF=x\n"


def test_results_that_cannot_be_written_are_one_line_and_exit_code_1(snakemake, checkout, capsys):
    snakemake("touch started")
    (checkout / "results").write_text("")
    assert line_of(capsys, 1).startswith(
        "rerun tiny: failed: results: expected a folder for results, found a file"
    )
    assert not (checkout / "started").exists()


def test_a_profile_says_where_and_none_means_all_cores_of_this_machine(checkout):
    study = Path("config/tiny.yaml")
    local = rerun.command_of(study, find_profile("local"), None)
    assert local[-2:] == ["--cores", "all"]
    cluster = rerun.command_of(study, find_profile("cluster"), None)
    assert cluster[-2:] == ["--profile", "profiles/cluster"]
    assert rerun.command_of(study, None, 3)[-2:] == ["--cores", "3"]


def test_the_newest_reports_are_kept(checkout, write):
    for day in range(1, 6):
        write("report", kind="report", date=f"2026-01-0{day}T00:00:00+00:00", value=float(day))
        keep_report(Path("results/tiny"), 3)
    kept = past_reports(Path("results/tiny"))
    assert [path.name[:8] for path in kept] == ["20260105", "20260104", "20260103"]
    assert (kept[0] / "index.html").read_text() == "<html>5.0</html>"
    assert keep_report(Path("results/tiny"), 0) is None
    assert past_reports(Path("results/tiny")) == []


def test_a_rerun_keeps_as_many_reports_as_it_was_asked_for(snakemake, write, capsys):
    for day in range(1, 14):
        write("report", kind="report", date=f"2026-01-{day:02}T00:00:00+00:00")
        keep_report(Path("results/tiny"), 20)
    snakemake("echo 'Nothing to be done'")
    assert main(["rerun", "--study", "tiny", "--keep", "12"]) == 0
    assert len(past_reports(Path("results/tiny"))) == 12


def test_a_report_that_is_refused_leaves_the_former_page_among_the_past_ones(checkout, write):
    report = write("report", kind="report")
    copy = keep_report(Path("results/tiny"))
    report.unlink()
    (report.parent / "index.html").unlink()
    assert keep_report(Path("results/tiny")) is None
    assert (copy / "index.html").exists()


def test_links_and_strange_dates_of_a_report_are_not_followed(checkout, write):
    report = write("report", kind="report")
    (report.parent / "link").symlink_to("/etc/passwd")
    copy = keep_report(Path("results/tiny"))
    assert not (copy / "link").exists()
    write("report", kind="report", date="../../../escape")
    assert keep_report(Path("results/tiny")) is None
