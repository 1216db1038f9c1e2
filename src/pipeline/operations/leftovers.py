"""What a former main process left running: nothing is started beside it."""

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
    if local:
        return f"jobs of a former start still run here (processes {', '.join(map(str, local))})"
    return ""


def local_jobs(checkout: Path) -> list[int]:
    """Processes of this machine that work in the checkout as a job does: `python -m pipeline STAGE --output ...`."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if "pipeline" in words and "--output" in words and Path(process.cwd()) == checkout.resolve():
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found
