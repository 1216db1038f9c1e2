"""Take times that can be compared: sides in turn, on one core, without the samples that something disturbed."""

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Side = Callable[[int], float]  # run so many times, return the seconds
LEAST = 3  # undisturbed samples; with fewer, disturbed ones are better than none


@dataclass(frozen=True)
class Samples:
    """Seconds per run of one side, and how many samples were dropped because the core was taken away meanwhile."""

    seconds: NDArray[np.float64]
    n_dropped: int


@dataclass(frozen=True)
class Sampling:
    """How to sample several sides against each other.

    The sides take turns, in alternating order, so that a drift of the clock frequency meets all of them alike. A sample
    during which the kernel took the core away (an involuntary context switch) is dropped.

    Attributes:
        n_samples: Wanted of each side.
        seconds_per_sample: A sample repeats its run until it takes about this long.
        seconds_at_most: When to stop with fewer samples, for all sides together.
        clock: Seconds; for that limit only.
        switches: How often the core has been taken away so far.
    """

    n_samples: int = 40
    seconds_per_sample: float = 100e-6
    seconds_at_most: float = 0.5
    clock: Callable[[], float] = time.perf_counter
    switches: Callable[[], int] = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw

    def __call__(
        self, sides: Mapping[str, Side], *, chill: Callable[[], None] | None = None
    ) -> dict[str, Samples]:
        """Sample every side: warm, after a run that is not counted; or cold, one run after each call of `chill`."""
        repeats = {name: 1 if chill else self._repeats(side) for name, side in sides.items()}
        good: dict[str, list[float]] = {name: [] for name in sides}
        disturbed: dict[str, list[float]] = {name: [] for name in sides}
        start = self.clock()
        order = list(sides)
        while min(map(len, good.values())) < self.n_samples:
            for name in order:
                if chill:
                    chill()
                else:
                    sides[name](1)  # the other sides have used the caches meanwhile
                before = self.switches()
                seconds = sides[name](repeats[name]) / repeats[name]
                (good if self.switches() == before else disturbed)[name].append(seconds)
            order.reverse()
            if self.clock() - start >= self.seconds_at_most:
                break
        result = {}
        # All sides alike: one without its disturbed samples beside another with them would seem faster than it is.
        undisturbed = min(map(len, good.values())) >= LEAST
        for name in sides:
            kept = good[name] if undisturbed else good[name] + disturbed[name]
            n_dropped = len(good[name]) + len(disturbed[name]) - len(kept)
            result[name] = Samples(np.array(kept), n_dropped)
        return result

    def in_network(self, runs: Mapping[str, Callable[[], Sequence[float]]]) -> dict[str, NDArray[np.float64]]:
        """Sample whole networks, whose runs give the seconds of all their layers: shape (n, layers) each."""
        good: dict[str, list[Sequence[float]]] = {name: [] for name in runs}
        disturbed: dict[str, list[Sequence[float]]] = {name: [] for name in runs}
        start = self.clock()
        order = list(runs)
        while min(map(len, good.values())) < self.n_samples:
            for name in order:
                runs[name]()  # the other networks have used the caches meanwhile
                before = self.switches()
                seconds = runs[name]()
                (good if self.switches() == before else disturbed)[name].append(seconds)
            order.reverse()
            if self.clock() - start >= self.seconds_at_most:
                break
        undisturbed = min(map(len, good.values())) >= LEAST
        kept = {name: good[name] if undisturbed else good[name] + disturbed[name] for name in runs}
        return {name: np.array(rows) for name, rows in kept.items()}

    def _repeats(self, side: Side) -> int:
        side(1)
        once = side(1)
        return max(1, round(self.seconds_per_sample / once)) if once > 0 else 1


def interval(
    statistic: Callable[..., NDArray[np.float64]],
    *samples: NDArray[np.float64],
    generator: np.random.Generator,
    n_resamples: int = 1000,
) -> tuple[float, float]:
    """Bootstrap the 95 % interval of a statistic, each sample resampled on its own.

    Args:
        statistic: Takes one array of shape (n_resamples, n) per sample, returns shape (n_resamples,).
        samples: Shape (n,) each; n may differ.
        generator: Of the resamples.
        n_resamples: How many.

    References:
        Efron, Tibshirani, "An introduction to the bootstrap", 1993, section 13.3 (percentile interval).
    """
    drawn = [s[generator.integers(0, len(s), (n_resamples, len(s)))] for s in samples]
    low, high = np.quantile(statistic(*drawn), (0.025, 0.975))
    return float(low), float(high)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread on one of its cores, and torch to one thread; put both back at the end."""
    n_threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    try:
        if cores:
            os.sched_setaffinity(0, {max(cores)})
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(n_threads)
        if cores:
            os.sched_setaffinity(0, cores)
