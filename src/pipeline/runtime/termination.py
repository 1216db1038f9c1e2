"""A request to end: Ctrl-C, or the signal that a batch system sends some seconds before it kills a job."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Exit code of a job that was asked to end and can continue later: `EX_TEMPFAIL` of sysexits.h.
EXIT_INTERRUPTED = 75


@contextmanager
def asked_to_end(note: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call `note` when SIGTERM or SIGINT comes, instead of ending the process; restore their handlers afterwards."""
    former = {wanted: signal.signal(wanted, note) for wanted in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for wanted, handler in former.items():
            signal.signal(wanted, handler)


@contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Record requests to end, and yield a function that tells whether one has come."""
    came: list[int] = []
    with asked_to_end(lambda signum, _frame: came.append(signum)):
        yield lambda: bool(came)
