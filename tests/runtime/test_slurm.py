"""What is asked of Slurm, with clients that only note what they were asked. The real one is asked in tests/slurm."""

import asyncio
import json
import sys
from dataclasses import asdict
from types import SimpleNamespace

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


def test_a_machine_without_a_cluster_has_no_jobs(client):
    calls = client("squeue", "echo 'squeue: fatal: Could not establish a configuration source' >&2; exit 1")
    assert slurm.jobs_named("ours") == []
    assert len(calls.read_text().splitlines()) == 1


def test_a_controller_that_does_not_answer_is_asked_again_and_then_an_error(client):
    calls = client("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(PipelineError, match="Unable to contact slurm controller"):
        slurm.jobs_named("ours")
    assert len(calls.read_text().splitlines()) > 1


def test_jobs_are_cancelled_until_they_are_gone(client, tmp_path):
    client("squeue", f"[ -e {tmp_path}/gone ] || echo 7")
    calls = client("scancel", f"touch {tmp_path}/gone")
    assert slurm.cancel("ours") == ["7"]
    assert "scancel 7" in calls.read_text()
    assert slurm.cancel("ours") == []


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


def test_the_executor_sees_what_a_person_has_cancelled(monkeypatch):
    answers = [({"1": "CANCELLED by 1000", "2": "RUNNING"}, 0.1), (None, None)]

    async def ask(command, logger):
        return answers.pop(0)

    executor = SimpleNamespace(query_job_status=ask)
    monkeypatch.setitem(sys.modules, "snakemake_executor_plugin_slurm", executor)
    slurm.mend_executor()
    assert asyncio.run(executor.query_job_status("sacct", None)) == ({"1": "CANCELLED", "2": "RUNNING"}, 0.1)
    assert asyncio.run(executor.query_job_status("sacct", None)) == (None, None)


def test_without_the_executor_there_is_nothing_to_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "snakemake_executor_plugin_slurm", None)
    slurm.mend_executor()
