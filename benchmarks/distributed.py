"""Factorization by parts: memory, operations, messages and time of 2, 4 and 8 parts compared with one.

Counts are exact and do not depend on the machine: most bytes of blocks and steps that a part holds (records in transit
included), floating-point operations (20 for a kernel entry), bytes sent from part to part. The critical path is the sum
over supersteps of the work of the busiest part. Wall clock is measured with two threads and with two MPI processes, as
ratios in one run; it needs an idle machine with two cores. The last case is a model from the counts.

The square is exp(-r / 0.1) on uniform points with nugget 1e-2 at tolerance 1e-6, the cube the same at 1e-4.
"""

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from _counted import NUGGET, counted, critical, matrix
from _frame import Benchmark, Goal, Quantity, Run
from _weak_scaling import Scaling
from numpy.typing import NDArray

from pipeline.data import load_points
from pipeline.hmatrix import DistributedH2Matrix, H2Matrix, kernels
from pipeline.hmatrix.distributed.exact_rows import exact_products
from pipeline.hmatrix.factor import entries_of, factorize_by, problem_of
from pipeline.hmatrix.factorization import Factorization
from pipeline.hmatrix.parts import Team
from pipeline.hmatrix.skeleton import FarSampling
from pipeline.hmatrix.swap import summed
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.predicted_memory import predict_memory

SHARE = 0.18
BYTES = Quantity("peak bytes a part / one's", "")
FLOPS = Quantity("flops in all / one's", "")
PATH = Quantity("speed-up, critical path", "", smaller_is_better=False)
SENT = Quantity("most sent by a part", "MB")
GAIN = Quantity("work in the same time, beside one process", "", smaller_is_better=False)
TIME = Quantity("time", "s")
RESIDUAL = Quantity("residual / one part's", "")
LOGDET = Quantity("logdet off one part's", "")
MEMORY = Quantity("peak memory", "GB")
RELATIVE = Quantity("residual", "")
A_POINT = Quantity("bytes a point", "B")
IDEAL = Quantity("share of ideal speed", "", smaller_is_better=False)
EFFICIENCY = Quantity("efficiency (model)", "", smaller_is_better=False)
LOOSE = 1e-3  # relative residual of the largest case

bench = Benchmark("distributed", __doc__, packages=("torch", "scipy", "mpi4py"))


@bench.case("square 262144, counted")
def square(run: Run) -> None:
    """Two dimensions: what the issue's table asks of 2, 4 and 8 processes."""
    problem = ("uniform_square", 8192 if run.quick else 262144, 1e-6)
    one = counted(*problem, 1)
    goals = {2: (0.55, 1.05, 1.85, 20), 4: (0.30, 1.10, 3.4, 25), 8: (0.17, 1.20, 5.5, 35)}
    for n_parts, (n_bytes, flops, path, sent) in goals.items():
        found, part = counted(*problem, n_parts), f"{n_parts} parts"
        run.record(BYTES, ours=found.peak / one.peak, part=part, goal=Goal.ours(n_bytes))
        run.record(FLOPS, ours=found.flops / one.flops, part=part, goal=Goal.ours(flops))
        run.record(PATH, ours=one.flops / found.critical, part=part, goal=Goal.ours(path))
        run.record(
            SENT, ours=found.sent["factorization"], part=f"{part}, factorization", goal=Goal.ours(sent)
        )
        run.record(SENT, ours=found.sent["solve"], part=f"{part}, solve", goal=Goal.ours(0.4))
        run.record(RESIDUAL, ours=found.residual / one.residual, part=part, goal=Goal.ours(1.1))
        off = abs(found.logdet - one.logdet) / abs(one.logdet)
        run.record(LOGDET, ours=float(off), part=part, goal=Goal.ours(1e-9))


@bench.case("cube 32768, counted")
def cube(run: Run) -> None:
    """Three dimensions, where seams are wide: the hard case."""
    problem = ("cube", 4096 if run.quick else 32768, 1e-4)
    one, found = counted(*problem, 1), counted(*problem, 8)
    run.record(FLOPS, ours=found.flops / one.flops, part="8 parts", goal=Goal.ours(1.5))
    run.record(PATH, ours=one.flops / found.critical, part="8 parts", goal=Goal.ours(1.9))
    run.record(RESIDUAL, ours=found.residual / one.residual, part="8 parts", goal=Goal.ours(1.1))


@bench.case("unlike processes, counted")
def unlike(run: Run) -> None:
    """Two processes of different speeds, with boxes in proportion: ideal time at their joint speed over their time."""
    name, n, tolerance = "uniform_square", 8192 if run.quick else 262144, 1e-6
    one = counted(name, n, tolerance, 1)
    A = matrix(name, n, tolerance)
    sampling = FarSampling.for_tolerance(SHARE * tolerance, A.norm, A.rows.n_boxes)
    problem = problem_of(
        A.form,
        entries_of(A.form),
        "cholesky",
        np.full(n, NUGGET),
        np.dtype(float),
        np.dtype(np.float32),
        sampling,
    )
    for fast in (3.0, 7.0):
        speeds = np.array([fast, 1.0])
        team = Team(2, shares=speeds)
        factorize_by(team, problem)
        ideal = one.flops / speeds.sum()
        share = float(ideal / critical(team.tally, speeds))
        run.record(IDEAL, ours=share, part=f"speeds {fast:.0f}:1", goal=Goal.ours(0.95))


@bench.case("unlike processes, timed")
def unlike_timed(run: Run) -> None:
    """Two MPI processes, one slowed down or working in batches: their time, compared with the ideal at joint speed."""
    n = 8192 if run.quick else 65536
    native, batched = (unlike_processes(n, role)["seconds"] for role in ("native", "batched"))
    cases = {
        "three times as slow": ("native:3", 3 * native),
        "in batches, by torch on the CPU": ("batched", batched),
    }
    for part, (role, alone) in cases.items():
        run.record(
            TIME,
            ours=unlike_processes(n, "native", role)["seconds"],
            peer=1 / (1 / native + 1 / alone),
            peer_name="ideal by the seconds of each alone",
            part=f"the second {part}",
            goal=Goal.ratio(1 / 1.15),
        )


def unlike_processes(n: int, *roles: str) -> dict[str, Any]:
    """Factorize with one process for each role; see `_unlike.py`."""
    return told_by_first(len(roles), "_unlike.py", [str(n), *roles])


def direct(A: H2Matrix, b: NDArray[np.float64], n_parts: int | None) -> Factorization:
    """Factorize and solve."""
    F = A.factorize(1e-6, parts=n_parts)
    F.solve(b)
    return F


def least(work: Callable[[], object], repeats: int) -> float:
    """Return the least of several wall-clock times."""
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


@bench.case("square 131072, two threads")
def threads(run: Run) -> None:
    """Build, factorize and solve with two threads, compared with one."""
    n = 8192 if run.quick else 131072
    points = load_points("uniform_square", n_points=n, seed=1).points
    b = np.random.default_rng(5).standard_normal(n)

    def whole() -> None:
        A = H2Matrix.from_kernel(
            points, kernels.Matern(nu=0.5, length_scale=0.1), diagonal=NUGGET, tolerance=1e-6
        )
        direct(A, b, None)

    seconds, before = {}, torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            seconds[n_threads] = least(whole, 1 if run.quick else 3)
    finally:
        torch.set_num_threads(before)
    run.record(
        TIME, ours=seconds[2], peer=seconds[1], peer_name="one thread, one part", goal=Goal.ratio(1.6),
        part="build + factorize + solve",
    )  # fmt: skip


@bench.case("square 131072, two processes")
def processes(run: Run) -> None:
    """Build, factorize and solve with two MPI processes, one part each, compared with one process."""
    n = 8192 if run.quick else 131072
    one, two = (launched(n_processes, n, repeats=3) for n_processes in (1, 2))
    run.record(
        TIME, ours=two["seconds"], peer=one["seconds"], peer_name="one process", goal=Goal.ratio(1.6),
        part="build + factorize + solve",
    )  # fmt: skip
    run.record(
        TIME, ours=two["after_build"], peer=one["after_build"], peer_name="one process",
        part="factorize + solve",
    )  # fmt: skip
    with ThreadPoolExecutor() as pool:
        copies = list(pool.map(lambda _: launched(1, n, repeats=3)["seconds"], range(2)))
    # The gain of two cores for programs that do not wait for each other: no division of the work gains more.
    run.record(GAIN, ours=2 * one["seconds"] / max(copies), part="two copies that share nothing")


@bench.case("square 4000000, four processes")
def large(run: Run) -> None:
    """Build at 1e-5, factorize loosely, solve to 1e-3; report the memory per process. Leaves of 32 points need least.

    The blocks are in files while the matrix is factorized, and products read them from there.
    """
    n = 16384 if run.quick else 4_000_000
    with TemporaryDirectory() as folder:
        found = launched(4, n, repeats=1, tolerance=1e-5, leaf_size=32, folder=folder)
    run.record(TIME, ours=found["seconds"], part="build + factorize + solve", goal=Goal.ours(240))
    run.record(MEMORY, ours=found["peak_bytes"] / 1e9, part="most of a process", goal=Goal.ours(3))
    run.record(RELATIVE, ours=found["residual"], part="on exact rows")


def launched(
    n_processes: int,
    n: int,
    *,
    repeats: int,
    tolerance: float = 1e-6,
    leaf_size: int = 64,
    folder: str = "",
) -> dict[str, Any]:
    """Run `process` with MPI, and return the output of its first process."""
    arguments = [str(n), str(repeats), str(tolerance), str(leaf_size), folder]
    return told_by_first(n_processes, Path(__file__).name, ["--process", *arguments])


def told_by_first(n_processes: int, script: str, arguments: list[str]) -> dict[str, Any]:
    """Run a script of this folder with MPI, and return the output of its first process.

    Raises:
        RuntimeError: If a process fails or is killed; the text is the launcher's.
    """
    command = ["mpiexec", "-n", str(n_processes), sys.executable, "-m", "mpi4py"]
    path = str(Path(__file__).with_name(script))
    # Processes share the cores: additional BLAS threads would make all of them wait.
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [*command, path, *arguments], check=False, capture_output=True, text=True, env=one_thread
    )
    if told.returncode:
        raise RuntimeError(f"{script} {' '.join(arguments)}: {told.stdout}{told.stderr}".strip())
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return found


def exact_residual(A: DistributedH2Matrix, x: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return |b - A x| / |b| on sampled exact rows; collective."""
    both = A.form.route.there(A.communicator, np.stack([x, b], axis=1))
    own, exact = exact_products(A.form, np.ascontiguousarray(both[:, :1]), A.communicator, seed=0)
    wanted = both[own, 1:]
    squares = summed(A.communicator, np.array([((exact - wanted) ** 2).sum(), (wanted**2).sum()]))
    return float(np.sqrt(squares[0] / squares[1]))


def process(n: int, repeats: int, tolerance: float, leaf_size: int, folder: str) -> None:
    """Do the work of one MPI process: draw own points, build, factorize and solve; report the least of several times.

    With a folder, blocks move there before the factorization. It is loose, and conjugate gradients solve.
    """
    torch.set_num_threads(1)
    communicator = MpiCommunicator()
    rank, size = communicator.rank, communicator.size
    own = n * (rank + 1) // size - n * rank // size
    rng = np.random.default_rng((5, rank))
    points, b = rng.random((own, 2)), rng.standard_normal(own)
    kernel = kernels.Matern(nu=0.5, length_scale=0.1)
    best = {"seconds": math.inf}
    for _ in range(repeats):
        communicator.barrier()
        begun = time.perf_counter()
        A = DistributedH2Matrix.from_kernel(
            points, kernel, communicator, diagonal=NUGGET, tolerance=tolerance, leaf_size=leaf_size
        )
        if folder:
            A = A.on_disk(folder)
        communicator.barrier()
        built = time.perf_counter()
        x = A.solve(b, tolerance=LOOSE)[0] if folder else A.factorize(parts=size).solve(b)
        communicator.barrier()
        ended = time.perf_counter()
        if ended - begun < best["seconds"]:
            residual = exact_residual(A, x, b)
            best = {"seconds": ended - begun, "after_build": ended - built, "residual": residual}
        del A
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peaks = communicator.all_gather(torch.tensor([peak]))
    if rank == 0:
        print(json.dumps(best | {"peak_bytes": max(int(peak) for peak in peaks)}))


@bench.case("bytes a point, beside what is predicted")
def predicted(run: Run) -> None:
    """Bytes of a compressed matrix and at the peak of its factorization, the tables of `predicted_memory.py`."""
    n = 2048 if run.quick else 32768
    for dimension in (1, 2, 3):
        points = np.random.default_rng(0).random((n, dimension))
        for tolerance in (1e-2, 1e-4, 1e-6) if dimension == 3 else (1e-2, 1e-4, 1e-6, 1e-8):
            kernel = kernels.Matern(nu=0.5, length_scale=0.1)
            A = H2Matrix.from_kernel(points, kernel, diagonal=NUGGET, tolerance=tolerance)
            F = A.factorize(tolerance, parts=1)
            empty = predict_memory("file", 0, dimension, tolerance, tolerance, 1)
            told = predict_memory("file", n, dimension, tolerance, tolerance, 1)
            run.record(
                A_POINT,
                ours=(A.n_bytes + sum(F.steps.peak_bytes.values())) / n,
                peer=(told.solve_bytes - empty.solve_bytes) / n,
                peer_name="predicted, with its margin",
                part=f"{dimension}-D, {tolerance:.0e}",
                goal=Goal.ratio(1),
            )


@bench.case("weak scaling, a model through these counts")
def model(run: Run) -> None:
    """262,144 points per process: time of one process over time of P, from operations, latency and bandwidth."""
    n = 8192 if run.quick else 262144
    one, eight = counted("uniform_square", n, 1e-6, 1), counted("uniform_square", n, 1e-6, 8)
    A = matrix("uniform_square", n, 1e-6)
    begun = time.perf_counter()
    A.factorize(1e-6, parts=1)
    rate = one.flops / (time.perf_counter() - begun)
    scaling = Scaling.of(A, one.tally, eight.tally, rate)
    alone = scaling.seconds(n, 1)
    for n_processes in (4, 64, 256, 4096):
        efficiency = alone / scaling.seconds(n * n_processes, n_processes)
        run.record(
            EFFICIENCY, ours=efficiency, part=f"{n_processes} processes",
            goal=Goal.ours(0.85) if n_processes == 4096 else None,
        )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        process(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
    else:
        sys.exit(bench.main())
