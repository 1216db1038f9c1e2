"""Time spent, and time left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tqdm import tqdm

ENOUGH = 5  # steps from which the time of the others is estimated


@dataclass
class Stopwatch:
    """Seconds spent in the named parts of a stage."""

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
class ProgressLine:
    """Lines with rate and time left, at most one every few seconds, so that a log stays readable."""

    label: str
    total: int
    every: float = 5.0
    _first: tuple[int, float] | None = field(default=None, init=False)
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._last = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        """Report how many steps are done; prints a line every few seconds, and at the end.

        The first step includes one-time set-up, so the rate is that of later steps, as soon as there are `ENOUGH`.
        """
        now = time.monotonic()
        self._first = first_done, first_time = self._first or (done, now)
        if now - self._last < self.every and done < self.total:
            return
        self._last = now
        n_timed = done - first_done
        speed = ""
        if n_timed >= ENOUGH and now > first_time:
            rate = n_timed / (now - first_time)
            speed = f", {rate:.1f} steps/s, {(self.total - done) / rate:.0f} s left"
        print(f"{self.label}: {done}/{self.total} steps{speed}  {note}".rstrip(), file=sys.stderr, flush=True)


@contextmanager
def boxes(label: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that tells a bar how many boxes of how many are done; the bar is shown only in a terminal."""
    # disable=None hides the bar where standard error is not a terminal.
    with tqdm(desc=label, unit=" boxes", leave=False, disable=None if shown else True) as bar:

        def tell(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield tell
