"""The main process's turn in a checkout: nobody else's before, nothing of a former one left, and nothing after."""

import sys
from contextlib import ExitStack
from pathlib import Path

from pipeline.artifacts.lock import hold
from pipeline.errors import PipelineError
from pipeline.runtime.slurm import cancel, mend_executor
from pipeline.runtime.software import record_software

_turn = ExitStack()


def begin(jobs: str = "") -> None:
    """Lock the folder that Snakemake works in, end what a killed main process left running, tell jobs their software.

    Exits with code 2, after a line with who holds it, when the folder is locked.

    Args:
        jobs: The name that this main process gives its jobs in Slurm's queue.
    """
    try:
        killed = _turn.enter_context(hold(Path.cwd(), jobs=jobs))
        left = cancel(killed.jobs) if killed else []
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if left:
        ids = ", ".join(left)
        print(
            f"Ended Slurm's jobs {ids} of a main process that was killed; trainings go on.", file=sys.stderr
        )
    record_software()
    mend_executor()


def end() -> None:
    """Give the folder back."""
    _turn.close()
