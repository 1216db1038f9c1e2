"""The use of Slurm apart from Snakemake: find our jobs, end them, and queue this job again."""

import logging
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from pipeline.artifacts.lock import Holder, killed_holder, lock_file
from pipeline.errors import PipelineError

# Errors of the clients on a machine where they are installed but which belongs to no cluster.
NO_CLUSTER = ("configuration source", "failed to fetch config")
# Slurm gives a job KillWait seconds, usually 30, to end by itself; a full queue may then take a while longer.
SECONDS_TO_END = 600


class _NoSlurmError(PipelineError):
    """Slurm can't be asked from this machine."""


def require_cluster() -> None:
    """Raise PipelineError unless jobs can be submitted to Slurm from this machine."""
    here = "or run the study on this machine: leave --profile out and add --cores all"
    try:
        _require_client("sbatch")
        _call("squeue", "--me", "--noheader", "--format=%i")
    except _NoSlurmError as error:
        raise PipelineError(f"the profile submits jobs to Slurm, and {error}, {here}") from None


def _require_client(program: str) -> None:
    if shutil.which(program) is None:
        raise _NoSlurmError(f"there is no {program} here; load Slurm's clients or start on another node")


def jobs_of(checkout: Path) -> list[str]:
    """The ids of the jobs that a killed main process of this checkout left in Slurm's queue, waiting or running."""
    killed = killed_holder(checkout)
    return jobs_named(killed.jobs) if killed else []


def jobs_named(names: str) -> list[str]:
    """The ids of this user's jobs in Slurm's queue with one of the names between commas; none without a name.

    It is a PipelineError if Slurm doesn't answer or isn't found here, so that the jobs are unknown.
    """
    if not names:
        return []
    unknown = f"a main process that was killed may have jobs in Slurm's queue ({names}), and"
    known = f"if you know that it has none, remove {lock_file(Path(), 'main')}"
    try:
        return _call("squeue", "--me", f"--name={names}", "--noheader", "--format=%i").split()
    except _NoSlurmError as error:
        raise PipelineError(f"{unknown} {error}; {known}") from None


def cancel_jobs_of(killed: Holder) -> list[str]:
    """End the jobs that a killed main process left, and wait until they are gone; return their ids.

    A training first writes a checkpoint, and continues from it when it is started again. It is a PipelineError if the
    jobs don't end, or if the main process ran on another machine: it may still be alive there, because a file system
    may keep its locks to one machine.
    """
    jobs = jobs_named(killed.jobs)
    if jobs and killed.host != socket.gethostname():
        raise PipelineError(
            f"Slurm still has jobs {', '.join(jobs)} of {killed}, which has ended or keeps its lock from other "
            f"machines; start on {killed.host}, or end them: scancel {' '.join(jobs)}"
        )
    if jobs:
        _call("scancel", *jobs)
    deadline = time.monotonic() + SECONDS_TO_END
    while left := jobs_named(killed.jobs):
        if time.monotonic() > deadline:
            raise PipelineError(
                f"Slurm's jobs {', '.join(left)} do not end; ask for help, or wait and run again"
            )
        time.sleep(1)
    return jobs


def queue_again() -> bool:
    """Ask Slurm to start this job again, under the same id, if it ends before its time is up; return whether it will.

    The same signal reaches a job that is cancelled or at its time limit. Such a job must not come back: its state left
    RUNNING before the signal came. A preempted job comes back either way.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or shutil.which("scontrol") is None:
        return False
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    if task is not None:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}"
    try:
        if _call("squeue", f"--jobs={job}", "--noheader", "--format=%T").strip() != "RUNNING":
            return False
        _call("scontrol", "requeue", job)
    except PipelineError as error:
        logging.getLogger(__name__).warning("not queued again: %s", error)
        return False
    return True


def _call(*command: str) -> str:
    """Call one of Slurm's clients, again and again for a while if the controller doesn't answer."""
    _require_client(command[0])
    for seconds_to_wait in (1, 4, 15, 0):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout
        if any(words in done.stderr for words in NO_CLUSTER):
            raise _NoSlurmError("this machine belongs to no cluster; start on one that does")
        time.sleep(seconds_to_wait)
    raise PipelineError(f"{command[0]} failed: {' '.join(done.stderr.split()) or done.returncode}")
