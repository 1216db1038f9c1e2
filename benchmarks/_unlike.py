"""A process of a factorization by processes of artificially different speeds.

`mpiexec -n 2 python -m mpi4py benchmarks/_unlike.py N native native:3` factorizes a square of N points with two
processes. The second one sleeps after each piece of work until the work has taken three times as long. `batched` is a
process that eliminates in batches with torch on the CPU. Prints the least seconds of several factorizations, and the
speeds that were measured before them.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from pipeline.hmatrix import DistributedH2Matrix, kernels
from pipeline.hmatrix.distributed import factor, speeds
from pipeline.hmatrix.parts import Team
from pipeline.runtime.mpi import MpiCommunicator

T = TypeVar("T")
REPEATS, TOLERANCE, NUGGET = 2, 1e-6, 1e-2


def slowed(slowness: float) -> type[Team]:
    """Return a team that takes so many times as long for its work."""

    @dataclass(eq=False)
    class Slow(Team):
        def each(
            self, parts: Iterable[int], work: Callable[[int, bool], T], *, watch: object = None
        ) -> dict[int, T]:
            begun = time.thread_time()
            found = super().each(parts, work, watch=watch)  # type: ignore[arg-type]
            time.sleep((slowness - 1) * (time.thread_time() - begun))
            return found

    return Slow


def process(n: int, roles: list[str]) -> None:
    """Build, measure speeds, and factorize several times in proportion to them."""
    torch.set_num_threads(1)
    communicator = MpiCommunicator()
    rank, size = communicator.rank, communicator.size
    kind, _, slowness = roles[rank].partition(":")
    if slowness:
        factor.Team = speeds.Team = slowed(float(slowness))  # type: ignore[misc]
    own = n * (rank + 1) // size - n * rank // size
    points = np.random.default_rng((5, rank)).random((own, 2))
    kernel = kernels.Matern(nu=0.5, length_scale=0.1)
    A = DistributedH2Matrix.from_kernel(points, kernel, communicator, diagonal=NUGGET, tolerance=TOLERANCE)
    device = torch.device("cpu") if kind == "batched" else None
    first = A.factorize(device=device, speeds="measured")
    measured, residual, least = [speed.boxes_per_second for speed in first.speeds], first.residual, math.inf
    del first
    for _ in range(REPEATS):
        communicator.barrier()
        begun = time.perf_counter()
        A.factorize(device=device, speeds=measured)
        communicator.barrier()
        least = min(least, time.perf_counter() - begun)
    if rank == 0:
        print(json.dumps({"seconds": least, "speeds": measured, "residual": residual}))


if __name__ == "__main__":
    process(int(sys.argv[1]), sys.argv[2:])
