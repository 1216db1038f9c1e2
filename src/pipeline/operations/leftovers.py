"""The remains of a killed main process: jobs here and in Slurm's queue, and shared memory of MPI."""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from pipeline.artifacts.lock import Holder, holder
from pipeline.errors import PipelineError
from pipeline.runtime.slurm import cancel_jobs_of, jobs_of

SHARED_MEMORY = Path("/dev/shm")
# How MPICH and Open MPI name their files in shared memory.
SEGMENTS = ("mpich_shm_*", "vader_segment.*", "sm_segment.*")


def still_running(checkout: Path) -> str:
    """Tell in words which jobs of a former start still run here; return an empty text if there are none."""
    main = holder(checkout)
    if main is not None:
        return f"the checkout is in use by {main}"
    queued = jobs_of(checkout)
    if queued:
        return f"Slurm still has jobs of this checkout ({', '.join(queued)})"
    local = local_jobs(checkout)
    return f"jobs of a former start still run here: {in_words(local)}" if local else ""


def end_what_is_left_of(former: Holder, checkout: Path) -> list[str]:
    """End a killed main process's jobs in Slurm's queue and return their ids; make sure that none runs here.

    It is a PipelineError if one does, or if Slurm's don't end: two jobs would write the same result.
    """
    ended = cancel_jobs_of(former)
    running = local_jobs(checkout)
    if running:
        raise PipelineError(f"jobs of a main process that was killed still run here: {in_words(running)}")
    return ended


def local_jobs(checkout: Path) -> dict[int, str]:
    """Find the outputs of the checkout's jobs on this machine, by processes: `python -m pipeline STAGE --output ...`.

    Only the topmost process of each job counts: a launcher, where there is one, ends the processes that it started.
    """
    found: dict[int, str] = {}
    parents: dict[int, list[int]] = {}
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if "pipeline" in words and "--output" in words and Path(process.cwd()) == checkout.resolve():
                output = Path(words[words.index("--output") + 1 :][0])
                parents[process.pid] = [parent.pid for parent in process.parents()]
                found[process.pid] = str(output.parent) if output.name == "manifest.json" else str(output)
        except (psutil.Error, OSError, IndexError):
            continue
    return {pid: made for pid, made in found.items() if not found.keys() & parents[pid]}


def in_words(jobs: Mapping[int, str]) -> str:
    """List jobs of this machine and tell what the user can do about them."""
    listed = ", ".join(f"{made} (process {pid})" for pid, made in sorted(jobs.items()))
    them = "it ends, or end it" if len(jobs) == 1 else "they end, or end them"
    return f"{listed}; wait until {them}: kill {' '.join(map(str, sorted(jobs)))}"


def free_shared_memory(since: float, folder: Path = SHARED_MEMORY) -> list[Path]:
    """Remove the files that killed MPI processes left in this machine's shared memory.

    A file is removed if it is this user's, was made after the time `since`, and no process has it mapped. Each file is
    checked twice, a moment apart, since a starting process makes a file before it maps it.
    """
    unused = _unused(since, folder)
    if unused:
        time.sleep(0.5)
        unused &= _unused(since, folder)
    for path in unused:
        path.unlink(missing_ok=True)
    return sorted(unused)


def _unused(since: float, folder: Path) -> set[Path]:
    made = set()
    for path in (path for pattern in SEGMENTS for path in folder.glob(pattern)):
        try:
            status = path.stat(follow_symlinks=False)
        except OSError:
            continue
        if status.st_uid == os.getuid() and status.st_mtime >= since:
            made.add(path)
    return made - set(_mapped(folder)) if made else made


def _mapped(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that processes of this user have mapped."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = maps.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            _, found, name = line.partition(f" {folder}/")
            if found:
                yield folder / name
