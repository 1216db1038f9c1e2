"""Time spent, and time left."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """Seconds of the named parts of a stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the block's wall-clock seconds to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass
class Progress:
    """Lines with rate and time left, at most one every few seconds, so that a log stays readable.

    Attributes:
        label: What is progressing.
        total: Steps in all.
        every: Seconds between lines.
        done_before: Steps that a former run had done.
    """

    label: str
    total: int
    every: float = 5.0
    done_before: int = 0
    _start: float = field(default_factory=time.monotonic)
    _last: float = field(default_factory=time.monotonic)

    def update(self, done: int, note: str = "") -> None:
        """Tell that so many steps are done; prints when it is time to, and at the end."""
        now = time.monotonic()
        if now - self._last < self.every and done < self.total:
            return
        self._last = now
        rate = (done - self.done_before) / max(now - self._start, 1e-9)
        left = (self.total - done) / rate if rate > 0 else float("nan")
        speed = f"{rate:.1f} steps/s, {left:.0f} s left"
        print(
            f"{self.label}: {done}/{self.total} steps, {speed}  {note}".rstrip(), file=sys.stderr, flush=True
        )
