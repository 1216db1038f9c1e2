"""A request to end: the signal that a batch system sends some seconds before it kills a job."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Exit code of a job that was asked to end and can go on later: `EX_TEMPFAIL` of sysexits.h.
EXIT_INTERRUPTED = 75


@contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM instead of dying of it; afterwards the signal does what it did before.

    Yields:
        Tells whether the signal has come.
    """
    came = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    former = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, former)
