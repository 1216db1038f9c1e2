"""The main process's turn in a checkout: nobody else's before, nothing of a former one left, and nothing after."""

import logging
import sys
from contextlib import ExitStack
from pathlib import Path

from pipeline.artifacts.lock import hold
from pipeline.errors import PipelineError
from pipeline.runtime.slurm import cancel
from pipeline.runtime.software import record_software

_turn = ExitStack()


def begin() -> None:
    """Lock the folder that Snakemake works in, end what a killed main process left running, tell jobs their software.

    Exits with code 2, after a line with who holds it, when the folder is locked.
    """
    try:
        _turn.enter_context(hold(Path.cwd()))
        left = cancel(Path.cwd())
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if left:
        logging.getLogger("snakemake.logging").warning(
            "Ended Slurm's jobs %s of a main process that was killed; trainings go on from their checkpoints.",
            ", ".join(left),
        )
    record_software()


def end() -> None:
    """Give the folder back."""
    _turn.close()
