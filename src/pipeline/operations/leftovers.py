"""What a former main process left running: nothing is started beside it."""

from collections.abc import Mapping
from pathlib import Path

import psutil

from pipeline.artifacts.lock import holder
from pipeline.runtime.slurm import jobs_of


def still_running(checkout: Path) -> str:
    """What of a former start still runs here, in words; nothing where nothing does."""
    main = holder(checkout)
    if main is not None:
        return f"the checkout is in use by {main}"
    queued = jobs_of(checkout)
    if queued:
        return f"Slurm still has jobs of this checkout ({', '.join(queued)})"
    local = local_jobs(checkout)
    return f"jobs of a former start still run here: {in_words(local)}" if local else ""


def local_jobs(checkout: Path) -> dict[int, str]:
    """What runs on this machine as a job of the checkout does: `python -m pipeline STAGE --output ...`.

    Returns:
        What each job makes, by its topmost process: a launcher, where there is one, ends what it has started.
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
    """Jobs of this machine, and what a person can do about them."""
    listed = ", ".join(f"{made} (process {pid})" for pid, made in sorted(jobs.items()))
    them = "it ends, or end it" if len(jobs) == 1 else "they end, or end them"
    return f"{listed}; wait until {them}: kill {' '.join(map(str, sorted(jobs)))}"
