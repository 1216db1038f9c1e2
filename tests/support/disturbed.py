"""A communicator that fails, dies or delays at one of its calls."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Disturbance(Exception):
    """The exception of a disturbed process."""


@dataclass
class Disturbed:
    """Pass every call on; call `disturb` before the call with the given number."""

    inner: Any
    at: int
    disturb: Callable[[], None]
    calls: int = field(default=0)

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if not callable(found):
            return found

        def call(*arguments, **options):
            self.calls += 1
            if self.calls == self.at:
                self.disturb()
            return found(*arguments, **options)

        return call


def fail():
    raise Disturbance("disturbed")


def dawdle():
    time.sleep(0.5)


def die():
    os.kill(os.getpid(), signal.SIGKILL)
