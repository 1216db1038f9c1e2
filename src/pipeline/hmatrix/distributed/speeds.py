"""Speeds of different processes: seconds per box of each level, measured on the same few boxes everywhere.

Processes may have one thread or several, cores alone or a device that works in batches. Before a factorization each one
eliminates a small matrix over some hundred of the points, with the kernel, the tolerance and the kind that are asked
for, in all its threads at once. The time per box there, and the number of boxes on each level of the whole tree, give
the number of boxes that a process can eliminate in a second; boxes are divided in proportion.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.hmatrix.admissibility import interactions
from pipeline.hmatrix.distributed.form import OwnForm
from pipeline.hmatrix.distributed.points import kernel_matrix
from pipeline.hmatrix.geometry import trees_of
from pipeline.hmatrix.inputs import as_array
from pipeline.hmatrix.parts import Problem, Team, eliminate
from pipeline.hmatrix.skeleton import FarSampling
from pipeline.hmatrix.swap import Array, gather
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.words import shown

MEASURED = "measured"
_LEAVES = 64  # leaves of the small matrix: most boxes are leaves or of the level above
_DENSE_END = 64
_ROUNDS = 3  # rounds of measuring; the least counts, since other programs only add


@dataclass(frozen=True)
class Speed:
    """The measured speed of a process.

    Attributes:
        process: Number of the process.
        device: Name of its device, such as "cuda:0"; "native" if it has none.
        threads: Number of threads that eliminated boxes at once.
        seconds_per_box: Seconds per box on each level, leaves first; the last also counts for all higher levels.
        boxes_per_second: The rate of all threads together, over the boxes of the whole tree.
    """

    process: int
    device: str
    threads: int
    seconds_per_box: tuple[float, ...]
    boxes_per_second: float

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per level, in a form that JSON and tables can hold."""
        return [
            {
                "process": self.process, "device": self.device, "threads": self.threads,
                "level_above_leaves": height, "seconds_per_box": seconds,
                "boxes_per_second": self.boxes_per_second,
            }
            for height, seconds in enumerate(self.seconds_per_box)
        ]  # fmt: skip


def boxes_per_second(
    seconds_per_box: Sequence[float], boxes: Sequence[int] | NDArray[Any], threads: int
) -> float:
    """Return the number of boxes of a whole tree that are eliminated in a second.

    Args:
        seconds_per_box: Seconds per box on each level, leaves first.
        boxes: Number of boxes on each level of the tree, from the leaves up; may have more levels than were measured.
        threads: Number of threads that eliminate boxes at once, each at this speed.
    """
    last = len(seconds_per_box) - 1
    seconds = sum(float(count) * seconds_per_box[min(height, last)] for height, count in enumerate(boxes))
    return threads * float(np.sum(boxes)) / seconds


def measured_speeds(
    A: OwnForm,
    own_term: Array,
    communicator: Communicator,
    *,
    kind: int,
    types: tuple[np.dtype[Any], np.dtype[Any]],
    sampling: FarSampling,
    device: torch.device | None,
    threads: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Speed]:
    """Measure all processes on the same boxes; collective.

    Args:
        A: The matrix.
        own_term: Diagonal term of own rows, in tree order.
        communicator: The processes.
        kind, types, sampling: See `parts.Problem`; types are those of arithmetic and of steps.
        device: Device on which this process works in batches; None for native work.
        threads: Number of threads of this process that eliminate at once.
        clock: Returns the time in seconds.
    """
    problem = _small_problem(A, own_term, communicator, kind, types, sampling)
    devices = {} if device is None else {0: device}

    def run() -> list[tuple[int, float]]:
        rows: list[tuple[int, float]] = []
        eliminated, _ = eliminate(problem, Team(1, 1, devices=devices), clock=clock)
        for row in [] if eliminated is None else eliminated.table:
            rows.append((row["boxes"], row["seconds"]))
        return rows[:-1]  # the last is the dense end

    run()  # a device compiles and allocates at first
    rounds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_ROUNDS):
            found = [future.result() for future in [pool.submit(run) for _ in range(threads)]]
            n_levels = min(len(rows) for rows in found)
            rounds.append([max(rows[i][1] / max(rows[i][0], 1) for rows in found) for i in range(n_levels)])
    own = np.array(rounds).min(axis=0)
    names = gather(communicator, np.frombuffer(str(device or "native").encode(), np.uint8).copy())
    everybodys = gather(communicator, np.concatenate([[float(threads)], own]))
    boxes = A.division.whole.sizes[::-1]
    n_common = min(len(row) for row in everybodys) - 1
    if n_common == 0:  # too few points, or a failed pivot, which the factorization will report
        everybodys, n_common = [np.array([row[0], 1.0]) for row in everybodys], 1
    result = []
    for process, (name, row) in enumerate(zip(names, everybodys, strict=True)):
        seconds = tuple(float(value) for value in np.maximum(row[1 : 1 + n_common], 1e-9))
        count = int(row[0])
        speed = boxes_per_second(seconds, boxes, count)
        result.append(Speed(process, name.tobytes().decode(), count, seconds, speed))
    return result


def _small_problem(
    A: OwnForm,
    own_term: Array,
    communicator: Communicator,
    kind: int,
    types: tuple[np.dtype[Any], np.dtype[Any]],
    sampling: FarSampling,
) -> Problem:
    """Return the matrix over some points of the process that owns most: the same on all processes; collective."""
    tree, whole = A.division.tree, A.division.whole
    leaf = max(whole.largest(whole.n_levels - 1), 1)
    counts = [int(count[0]) for count in gather(communicator, np.array([A.n_own]))]
    n = _LEAVES * leaf if communicator.rank == int(np.argmax(counts)) else 0
    points = np.concatenate(gather(communicator, tree.points[:n]))
    term = np.concatenate(gather(communicator, own_term[:n]))
    small, _ = trees_of(points, None, leaf)
    lists = interactions(small, small, A.admissibility)
    working, stored = types
    matrix = kernel_matrix(A.kernel, small.points, small.points, is_complex=term.dtype.kind == "c")
    return Problem(
        matrix, small, lists.near, lists.far, term[small.permutation], kind, working, stored, sampling,
        lists.first_far_level(small), _DENSE_END, kernel=A.kernel,
    )  # fmt: skip


def as_speeds(speeds: object, n_processes: int) -> str | list[float] | None:
    """Return "measured", a number for each process or None, as given.

    Raises:
        ConfigError: If `speeds` is none of these, or a number is not positive.
    """
    if speeds is None or (isinstance(speeds, str) and speeds == MEASURED):
        return speeds
    given = np.zeros(0) if isinstance(speeds, str) else as_array(speeds)
    usable = given.shape == (n_processes,) and given.dtype.kind in "iuf"
    if not usable or not (np.isfinite(given) & (given > 0)).all():
        raise ConfigError(
            f'speeds must be "{MEASURED}", a positive number for each of {n_processes} processes or None, '
            f"not {shown(speeds)}"
        )
    return [float(speed) for speed in given]


def shares_of(speeds: Sequence[float], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the relative work of each part, shape (parts,): a process's speed is that of all its parts together."""
    return np.repeat(np.array(speeds) / np.maximum(counts, 1), counts)
