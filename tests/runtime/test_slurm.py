"""What is asked of Slurm, with clients that only note what they were asked. The real one is asked in tests/slurm."""

import json
import socket
from dataclasses import asdict

import pytest

from pipeline.artifacts.lock import Holder, lock_file
from pipeline.errors import PipelineError
from pipeline.runtime import slurm


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A function that makes a client of Slurm whose behavior is a line of shell; `calls` holds what it was asked."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)

    def make(name, behavior):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/calls\n{behavior}\n')
        (tmp_path / name).chmod(0o755)
        return tmp_path / "calls"

    return make


def test_a_killed_main_processs_jobs_are_those_of_the_name_in_its_lock_file(client, tmp_path):
    calls = client("squeue", "echo 7; echo 8_1")
    assert slurm.jobs_of(tmp_path) == []
    lock_file(tmp_path, "main").parent.mkdir()
    lock_file(tmp_path, "main").write_text(json.dumps(asdict(Holder(1, "h", "u", "now", "c", jobs="ours"))))
    assert slurm.jobs_of(tmp_path) == ["7", "8_1"]
    assert "--name=ours" in calls.read_text()


def test_no_name_needs_no_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.jobs_named("") == []


def test_jobs_that_cannot_be_asked_for_are_not_taken_for_none(client, tmp_path, monkeypatch):
    calls = client("squeue", "echo 'squeue: fatal: Could not establish a configuration source' >&2; exit 1")
    with pytest.raises(
        PipelineError,
        match=r"\(ours\), and this machine belongs to no cluster; .* remove \.snakemake/main\.lock",
    ):
        slurm.jobs_named("ours")
    assert len(calls.read_text().splitlines()) == 1
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(
        PipelineError, match=r"no squeue here; load Slurm's clients.*remove \.snakemake/main\.lock"
    ):
        slurm.jobs_named("ours")


def test_a_controller_that_does_not_answer_is_asked_again_and_then_an_error(client):
    calls = client("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(PipelineError, match="Unable to contact slurm controller"):
        slurm.jobs_named("ours")
    assert len(calls.read_text().splitlines()) > 1


def test_where_nothing_can_be_submitted_is_told_with_what_else_to_do(client, tmp_path, monkeypatch):
    client("sbatch", "true")
    client("squeue", "echo 'squeue: fatal: Could not establish a configuration source' >&2; exit 1")
    with pytest.raises(
        PipelineError, match=r"belongs to no cluster; .* leave --profile out and add --cores all"
    ):
        slurm.require_cluster()
    client("squeue", "true")
    slurm.require_cluster()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(
        PipelineError, match=r"there is no sbatch here; .* leave --profile out and add --cores all"
    ):
        slurm.require_cluster()


def killed(host):
    return Holder(1, host, "u", "now", "c", jobs="ours")


def test_jobs_are_cancelled_until_they_are_gone(client, tmp_path):
    client("squeue", f"[ -e {tmp_path}/gone ] || echo 7")
    calls = client("scancel", f"touch {tmp_path}/gone")
    assert slurm.cancel_jobs_of(killed(socket.gethostname())) == ["7"]
    assert "scancel 7" in calls.read_text()
    assert slurm.cancel_jobs_of(killed(socket.gethostname())) == []


def test_jobs_of_a_main_process_that_may_live_elsewhere_are_not_cancelled(client):
    client("squeue", "echo 7; echo 8")
    calls = client("scancel", "true")
    with pytest.raises(PipelineError, match="start on elsewhere, or end them: scancel 7 8"):
        slurm.cancel_jobs_of(killed("elsewhere"))
    assert "scancel" not in calls.read_text()


@pytest.mark.parametrize(("state", "asked"), [("RUNNING", True), ("COMPLETING", False)])
def test_only_a_running_job_is_queued_again(state, asked, client, monkeypatch):
    client("squeue", f"echo {state}")
    calls = client("scontrol", "true")
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    assert slurm.queue_again() is asked
    assert ("scontrol requeue 9" in calls.read_text()) is asked


def test_outside_of_slurm_nothing_is_queued(client, monkeypatch):
    client("scontrol", "true")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert slurm.queue_again() is False


def test_a_task_of_an_array_is_queued_alone(client, monkeypatch):
    client("squeue", "echo RUNNING")
    calls = client("scontrol", "true")
    for name, value in (("JOB_ID", "12"), ("ARRAY_JOB_ID", "9"), ("ARRAY_TASK_ID", "3")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert slurm.queue_again()
    assert "scontrol requeue 9_3" in calls.read_text()
