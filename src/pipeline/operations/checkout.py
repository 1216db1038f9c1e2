"""The main process's turn in a checkout: nobody else's before, nothing of a former one left, and nothing after."""

import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from pipeline.artifacts.lock import Holder, LockedError, hold, holder
from pipeline.errors import PipelineError
from pipeline.operations.leftovers import in_words, local_jobs
from pipeline.runtime.executor import mend_executor
from pipeline.runtime.native_build import check_built
from pipeline.runtime.slurm import cancel_jobs_of
from pipeline.runtime.software import record_software

_turn = ExitStack()


def at_work() -> Holder | None:
    """Whose turn it is while this process plans; what keeps that from being known keeps `begin` from its turn too."""
    try:
        return holder(Path.cwd())
    except LockedError:
        return None


def begin(planned_beside: Holder | None, jobs: str, code: Mapping[str, str]) -> None:
    """Lock the folder that Snakemake works in, end what a killed main process left running, tell jobs their software.

    Exits with code 2, after one line, when the folder is locked or a native module is not built from its sources.

    Args:
        planned_beside: Whose turn it was when this process planned: what that one has made since is not in the plan.
        jobs: The name that this main process gives its jobs in Slurm's queue, if it does.
        code: The digest of each stage's code, where jobs wait in a queue.
    """
    try:
        check_built()
        held = _turn.enter_context(hold(Path.cwd(), jobs=jobs))
        if planned_beside is not None:
            raise LockedError(f"{planned_beside} was at work here when this run was planned; start it again")
        left = _end_what_is_left_of(held.former) if held.former else []
        held.settle()
    except PipelineError as error:
        _turn.close()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if left:
        ids = ", ".join(left)
        print(
            f"Ended Slurm's jobs {ids} of a main process that was killed; trainings go on.", file=sys.stderr
        )
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt_once)
        _turn.callback(_heed_interrupts)
    record_software(code)
    mend_executor()


def _interrupt_once(_signum: int, _frame: FrameType | None) -> None:
    """Have Snakemake end its jobs; a second Ctrl-C is for them alone, and must not break off what follows their end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _heed_interrupts() -> None:
    """Undo the handler of this turn, unless an interrupt came."""
    if signal.getsignal(signal.SIGINT) is _interrupt_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_what_is_left_of(former: Holder) -> list[str]:
    """End a killed main process's jobs in Slurm's queue, and make sure that none runs on this machine.

    Raises:
        PipelineError: If one does, or Slurm's don't end: two jobs would write the same result.
    """
    ended = cancel_jobs_of(former)
    running = local_jobs(Path.cwd())
    if running:
        raise PipelineError(f"jobs of a main process that was killed still run here: {in_words(running)}")
    return ended


def end() -> None:
    """Give the folder back."""
    _turn.close()
