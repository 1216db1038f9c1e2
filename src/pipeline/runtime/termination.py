"""A request to end: the signal that a batch system sends some seconds before it kills a job, or a Ctrl-C."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Exit code of a job that was asked to end and can go on later: `EX_TEMPFAIL` of sysexits.h.
EXIT_INTERRUPTED = 75


@contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM and SIGINT instead of ending the process; yield what tells whether one of them has come."""
    came = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    former = {wanted: signal.signal(wanted, note) for wanted in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: came
    finally:
        for wanted, handler in former.items():
            signal.signal(wanted, handler)
