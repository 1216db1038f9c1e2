"""Snakemake's main process: its turn in a checkout, and its work before and after the jobs of a study."""

import atexit
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from pipeline.artifacts.history import merge, write_snapshot
from pipeline.artifacts.lock import HeldLock, Holder, LockedError, hold, holder
from pipeline.errors import PipelineError
from pipeline.operations.inputs import KNOWN, require_readable_once
from pipeline.operations.leftovers import end_what_is_left_of, free_shared_memory
from pipeline.operations.live.tail import refusal
from pipeline.operations.past_reports import keep_report
from pipeline.operations.text import tell
from pipeline.runtime.native_build import check_built
from pipeline.runtime.slurm import require_cluster
from pipeline.runtime.snakemake_patches import check_versions, patch_slurm
from pipeline.runtime.software import record_software

_turn = ExitStack()
#: Jobs that Slurm refused.
_refused: list[Any] = []
#: Signals that interrupted this process.
_interruptions: list[int] = []
#: Free bytes that a job's log needs, so that an error fits in.
_ROOM = 1_000_000
#: Exit code of a process that a Ctrl-C ended: 128 plus the number of SIGINT, as in shells.
INTERRUPTED = 130


def heed_signals_while_planning() -> None:
    """Make Ctrl-C and SIGTERM end this process with one word until `begin`, without a traceback."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is usual:
            signal.signal(number, _leave)


def _leave(_signum: int, _frame: FrameType | None) -> None:
    print("interrupted", file=sys.stderr)
    sys.exit(INTERRUPTED)


def at_work() -> Holder | None:
    """Return who holds the folder while this process plans; if that can't be read, `begin` will say why."""
    try:
        return holder(Path.cwd())
    except LockedError:
        return None


def begin(
    planned_beside: Holder | None,
    executor: Any,
    code: Mapping[str, str],
    specs: Iterable[Mapping[str, Mapping[str, Any]]],
) -> None:
    """Lock Snakemake's working folder, end the jobs of a killed main process, and tell jobs their software.

    Exits with code 2, after one line, when jobs could not be right or could not be started: the folder is locked, a
    native module is not built from its sources, a file of the user's own is malformed, or this machine belongs to no
    cluster. Nothing stays locked or running then.

    Args:
        planned_beside: The process that held the folder when this one planned. The plan does not include what that
            process has made since.
        executor: Snakemake's executor. The one for Slurm has a name for its jobs, others have none.
        code: The digest of each stage's code, where jobs wait in a queue.
        specs: The specs of each study by their paths; they name the user's own files.
    """
    jobs = getattr(executor, "run_uuid", "")
    try:
        check_versions(with_slurm=bool(jobs))
        check_built()
        if jobs:
            require_cluster()
        for of_a_study in specs:
            require_readable_once(of_a_study, cache=KNOWN)
        held = _turn.enter_context(hold(Path.cwd()))
        if planned_beside is not None:
            raise LockedError(f"{planned_beside} was at work here when this run was planned; start it again")
        left = end_what_is_left_of(held.former, Path.cwd()) if held.former else []
        held.settle()
    except PipelineError as error:
        _turn.close()
        tell(f"error: {error}")
        sys.exit(2)
    if left:
        ids = ", ".join(left)
        tell(f"Ended Slurm's jobs {ids} of a main process that was killed; trainings go on.")
    began = datetime.fromisoformat(held.former.began).timestamp() if held.former else time.time()
    free_shared_memory(began)
    _turn.callback(free_shared_memory, began)
    _heed_signals()
    atexit.register(_end_early, held)
    record_software(code)
    if jobs:
        _refused[:] = []
        patch_slurm(executor, _refused, lambda any_left: held.name_jobs(jobs if any_left else ""))


def _heed_signals() -> None:
    """Make SIGTERM act as Ctrl-C does, and ignore a second signal of either kind."""
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _leave):
        signal.signal(signal.SIGINT, _interrupt_once)
        _turn.callback(_undo, signal.SIGINT, signal.default_int_handler)
    former = signal.signal(signal.SIGTERM, _interrupt_all)
    _turn.callback(_undo, signal.SIGTERM, former)


def _undo(signum: signal.Signals, handler: Any) -> None:
    """Restore a signal's former handler, unless the signal came: the work after the jobs' end must finish."""
    if signal.getsignal(signum) in (_interrupt_once, _interrupt_all):
        signal.signal(signum, handler)


def _interrupt_once(signum: int, _frame: FrameType | None) -> None:
    """Let Snakemake end its jobs; a second Ctrl-C reaches only the jobs, since the work after their end must finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _interruptions.append(signum)
    raise KeyboardInterrupt


def _interrupt_all(signum: int, frame: FrameType | None) -> None:
    """Interrupt the jobs of this machine too: a terminal's Ctrl-C reaches them by itself, SIGTERM does not."""
    _interruptions.append(signum)  # before any job can fail by it
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == os.getpgrp():
                process.send_signal(signal.SIGINT)
    _interrupt_once(signum, frame)


def _end_early(held: HeldLock) -> None:
    """Release the folder when Snakemake ends with an error of its own.

    The names of jobs in a queue stay recorded, so that the next main process finds and ends these jobs.
    """
    held.settled = held.settled and not held.jobs
    _turn.close()


def end() -> None:
    _turn.close()
    atexit.unregister(_end_early)


def was_interrupted() -> bool:
    return bool(_interruptions)


def end_in_failure(failed: Iterable[Any]) -> None:
    """Release the folder, and exit with a code that tells how Snakemake's failed jobs, or groups of jobs, ended.

    The code is 2 where every failed job named in one line something that the user can change, and 130 after a Ctrl-C or
    a SIGTERM. All other failures keep Snakemake's own code, 1.
    """
    end()
    if _interruptions:
        sys.exit(INTERRUPTED)
    jobs = [job for group in failed for job in getattr(group, "jobs", [group])]
    if jobs and all(job in _refused or any(_refusal(Path(log)) for log in job.log) for job in jobs):
        sys.exit(2)


def _refusal(log: Path) -> str:
    """Return a job's line on something that the user can change; print it where a full disk kept the log empty."""
    said = refusal(log)
    if not said and log.is_file() and not log.stat().st_size and shutil.disk_usage(log.parent).free < _ROOM:
        said = f"error: {log}: the disk is full, and nothing could be written; free some space and run again"
        tell(said)
    return said


def look_back(
    study: str,
    manifests: Iterable[str],
    *,
    for_jobs: bool = False,
    results: Path = Path("results"),
    n_reports: int | None = None,
) -> None:
    """Add existing artefacts to the history and keep a copy of the report, before jobs replace it and afterwards.

    A history that can't be written is only a warning: results are worth more than their record. The jobs that follow
    read a snapshot of it.
    """
    try:
        merge(results, study, [Path(manifest) for manifest in manifests])
        if for_jobs:
            write_snapshot(results, study)
    except (PipelineError, OSError) as error:
        tell(f"warning: the history was not brought up to date: {error}")
    try:
        keep_report(results / study, n_reports)
    except (PipelineError, OSError) as error:
        tell(f"warning: the report was not copied to the past ones: {error}")


def main_elsewhere() -> Holder | None:
    """Return the main process of this checkout if it runs on another host; only that process uses the history then.

    A database that one host writes to must not be opened on another: over a shared file system, their views of it
    differ.
    """
    main = holder(Path.cwd())
    return main if main is not None and main.host != socket.gethostname() else None
