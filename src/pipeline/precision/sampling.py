"""Take comparable times: sides in turn, on one core, without disturbed samples."""

import contextlib
import functools
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray

from pipeline.options import Count, NotNegative, require_bounds

_LONG = 0.1  # seconds, in which a core reads gigabytes

TimedRun = Callable[[int], float]  # runs so many times and returns the seconds


@dataclass(frozen=True)
class TimeSamples:
    """The samples of one side.

    Attributes:
        seconds: Per run, shape (n,); where whole networks run, of all their layers, shape (n, layers).
        n_dropped: Samples that were dropped because the core was taken away meanwhile.
        n_disturbed: Samples among `seconds` during which it was taken away, used because there were too few others.
        cpu_share: CPU time of this thread over wall time, median over the samples: 1 if nothing else ran.
    """

    seconds: NDArray[np.float64]
    n_dropped: int
    n_disturbed: int
    cpu_share: float


@dataclass(frozen=True)
class _Sample:
    seconds: float | Sequence[float]
    cpu_share: float
    disturbed: bool


@dataclass(frozen=True)
class Sampling:
    """How to sample several sides against each other.

    The sides take turns, in alternating order, so that a drift of the clock frequency meets all of them alike. A sample
    during which the kernel took the core away (an involuntary context switch) is dropped. If a side has too few samples
    when the time is up, every side uses the same number of disturbed ones, because a side with them would seem slower
    than one without.

    A turn begins with several runs that are not counted: a last cache that protects old lines takes four or five passes
    over the same numbers before it holds them all, and earlier samples are neither warm nor cold.

    Attributes:
        n_samples: Undisturbed samples wanted of each side.
        n_at_least: Least number of samples of each side, however long they take; undisturbed ones if there are enough.
        seconds_per_sample: A sample repeats its run until it takes about this long.
        seconds_at_most: When to stop with fewer than `n_samples`, for all sides together.
        n_warm: Runs at the beginning of a turn.
        samples_per_turn: Samples that follow them.
        clock: Returns seconds, for that limit and the share of CPU time.
        cpu: Returns CPU seconds of this thread.
        switches: Returns how often the core has been taken away so far.
    """

    n_samples: Count = 40
    n_at_least: Count = 5
    seconds_per_sample: NotNegative = 100e-6
    seconds_at_most: NotNegative = 0.5
    n_warm: Annotated[int, Ge(0)] = 5
    samples_per_turn: Count = 5
    clock: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.thread_time
    switches: Callable[[], int] = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw

    def __post_init__(self) -> None:
        require_bounds(self)

    def __call__(self, sides: Mapping[str, TimedRun]) -> dict[str, TimeSamples]:
        """Sample every side warm, after runs of its own."""
        repeats = {name: self._repeats(side) for name, side in sides.items()}

        def run(name: str) -> float:
            return sides[name](repeats[name]) / repeats[name]

        return self._in_turn(
            {name: functools.partial(run, name) for name in sides},
            before={name: functools.partial(side, self.n_warm) for name, side in sides.items()},
            n_per_turn=self.samples_per_turn,
        )

    def in_network(self, runs: Mapping[str, Callable[[], Sequence[float]]]) -> dict[str, TimeSamples]:
        """Sample whole networks, whose runs give the seconds of all their layers.

        A run of a tenth of a second leaves nothing of the run before in any cache, so one run is enough to warm up.
        """

        def warm(name: str) -> None:
            start = self.clock()
            for _ in range(self.n_warm):
                runs[name]()
                if self.clock() - start >= _LONG:
                    break

        return self._in_turn(
            runs,
            before={name: functools.partial(warm, name) for name in runs},
            n_per_turn=self.samples_per_turn,
        )

    def cold(
        self, groups: Sequence[Mapping[str, TimedRun]], *, chill: Callable[[], None]
    ) -> dict[str, TimeSamples]:
        """Sample the sides of each group once after each call of `chill`, one after the other.

        Emptying a last cache of hundreds of megabytes takes longer than most layers, so that many sides share a call.
        Those of a group must not read or write the same numbers: each would warm the next one.

        Args:
            groups: Sides by name; names differ between groups too.
            chill: Reads more than the caches hold.
        """
        found: dict[str, TimeSamples] = {}
        for group in groups:
            sides = list(group.values())

            def run(sides: Sequence[TimedRun] = sides) -> list[float]:
                return [side(1) for side in sides]

            taken = self._in_turn({"": run}, before={"": chill}, n_per_turn=1)[""]
            found |= {
                name: replace(taken, seconds=taken.seconds[:, place]) for place, name in enumerate(group)
            }
        return found

    def _in_turn(
        self,
        runs: Mapping[str, Callable[[], float | Sequence[float]]],
        *,
        before: Mapping[str, Callable[[], object]],
        n_per_turn: int,
    ) -> dict[str, TimeSamples]:
        """Let the sides take turns, each beginning with a call of `before`, until all have enough samples."""
        taken: dict[str, list[_Sample]] = {name: [] for name in runs}
        n_per_turn = min(n_per_turn, self.n_samples)
        n_at_least = min(self.n_at_least, self.n_samples)
        order, start = list(runs), self.clock()

        def undisturbed() -> int:
            return min(sum(not sample.disturbed for sample in of_side) for of_side in taken.values())

        while undisturbed() < self.n_samples:
            for name in order:
                before[name]()
                for _ in range(n_per_turn):
                    taken[name].append(self._sample(runs[name]))
            order.reverse()
            n_taken = len(taken[order[0]])
            if n_taken >= n_at_least and self.clock() - start >= self.seconds_at_most:
                break
        n_lacking = max(n_at_least - undisturbed(), 0)
        return {name: _kept(of_side, n_lacking) for name, of_side in taken.items()}

    def _sample(self, run: Callable[[], float | Sequence[float]]) -> _Sample:
        switches, wall, cpu = self.switches(), self.clock(), self.cpu()
        seconds = run()
        cpu, wall = self.cpu() - cpu, self.clock() - wall
        return _Sample(seconds, cpu / wall if wall > 0 else 1.0, self.switches() != switches)

    def _repeats(self, side: TimedRun) -> int:
        side(1)
        once = side(1)
        return max(1, round(self.seconds_per_sample / once)) if once > 0 else 1


def _kept(samples: Sequence[_Sample], n_disturbed: int) -> TimeSamples:
    """All undisturbed samples, and the first `n_disturbed` of the others."""
    disturbed = [number for number, sample in enumerate(samples) if sample.disturbed]
    dropped = set(disturbed[n_disturbed:])
    kept = [sample for number, sample in enumerate(samples) if number not in dropped]
    return TimeSamples(
        seconds=np.array([sample.seconds for sample in kept]),
        n_dropped=len(dropped),
        n_disturbed=len(disturbed) - len(dropped),
        cpu_share=float(np.median([sample.cpu_share for sample in kept])),
    )


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
        generator: Random numbers of the resamples.
        n_resamples: Number of resamples.

    References:
        Efron, Tibshirani, "An introduction to the bootstrap", 1993, section 13.3 (percentile interval).
    """
    drawn = [s[generator.integers(0, len(s), (n_resamples, len(s)))] for s in samples]
    low, high = np.quantile(statistic(*drawn), (0.025, 0.975))
    return float(low), float(high)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread on one of its cores, and torch to one thread; both are restored at the end."""
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
