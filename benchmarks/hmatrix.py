"""H2 matrices beside hmat-oss and LAPACK: seconds, bytes, errors and growth, one thread each, ratios in one run.

The problems: `square` and `cube` are exp(-r / 0.1) on uniform points with nugget 1e-2; `sphere` is 1/r on Fibonacci
points with diagonal sqrt(n). Residuals are those of exactly evaluated rows. hmat-oss comes from Debian (apt-get install
libhmat-oss-dev libopenblas-dev); where it is missing, its columns say so. SciPy's OpenBLAS and Debian's both choose
their kernels by the processor: OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE of the shell are ignored.
The last case races a GPU with one core; where torch finds none, it says so and records nothing
(`python benchmarks/hmatrix.py --only "a GPU*"` runs it alone).
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.pop("OPENBLAS_CORETYPE", None)
os.environ.pop("OPENBLAS_L2_SIZE", None)

import numpy as np
import scipy.linalg
import torch
from _frame import Benchmark, Goal, Quantity, Run
from numpy.typing import NDArray
from peers import hmat_oss
from threadpoolctl import threadpool_limits

from pipeline.data import load_points
from pipeline.hmatrix import H2Matrix, kernels
from pipeline.hmatrix.distributed import DistributedLowRank
from pipeline.runtime.communicator import Serial

TOLERANCE = 1e-6
SECONDS = Quantity("build + factorize + solve", "s")
PRODUCT = Quantity("product", "s")
BYTES = Quantity("operator + factorization", "MB")
RESIDUAL = Quantity("residual, exact rows", "")
EXPONENT = Quantity("exponent of n", "")

bench = Benchmark("hmatrix", __doc__, packages=("torch", "scipy"))


@dataclass(frozen=True)
class Problem:
    """A kernel matrix and a right-hand side; `peer` has hmat-oss's arguments for the same matrix."""

    points: NDArray[np.float64]
    kernel: kernels.Kernel
    diagonal: float
    peer: dict[str, float | str]

    @property
    def b(self) -> NDArray[np.float64]:
        return np.random.default_rng(5).standard_normal(len(self.points))

    def residual(self, x: NDArray[np.float64], n_rows: int = 500) -> float:
        """|b - A x| / |b| on random rows of the exact matrix."""
        rows = np.random.default_rng(7).choice(len(self.points), min(n_rows, len(self.points)), replace=False)
        points, solution = torch.from_numpy(self.points), torch.from_numpy(x)
        parts = [self.kernel(points[part], points) @ solution for part in torch.from_numpy(rows).split(50)]
        off = self.b[rows] - (torch.cat(parts).numpy() + self.diagonal * x[rows])
        return float(np.linalg.norm(off) / np.linalg.norm(self.b[rows]))


def exponential(name: str, n: int) -> Problem:
    """exp(-r / 0.1) with nugget 1e-2 on uniform points."""
    points = load_points(name, n_points=n, seed=1).points
    kernel = kernels.Matern(nu=0.5, length_scale=0.1)
    return Problem(points, kernel, 1e-2, {"kernel": "exponential", "parameter": 0.1, "diagonal": 1.01})


def inverse_distance(n: int) -> Problem:
    """1/r with diagonal sqrt(n) on Fibonacci points of the unit sphere."""
    points = load_points("sphere", n_points=n).points
    # Ours is 1/(4 pi r): the same matrix except for the factor.
    kernel = 4 * np.pi * kernels.LaplaceSingleLayer()
    return Problem(points, kernel, n**0.5, {"kernel": "inverse", "parameter": 1.0, "diagonal": n**0.5})


def dense_solution(problem: Problem) -> NDArray[np.float64]:
    """Evaluate, factorize and solve the dense matrix."""
    points = torch.from_numpy(problem.points)
    matrix = problem.kernel(points, points).numpy()
    matrix[np.diag_indices(len(matrix))] += problem.diagonal
    factor = scipy.linalg.cho_factor(matrix, overwrite_a=True, check_finite=False)
    return scipy.linalg.cho_solve(factor, problem.b, check_finite=False)


def clock(work: Callable[[], object]) -> tuple[float, object]:
    """Return the seconds of one call, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def direct(run: Run, problem: Problem, *, times: float, size: float) -> None:
    """Compress, factorize and solve at one tolerance, compared with hmat-oss's H-Cholesky."""
    b = problem.b

    def ours() -> tuple[H2Matrix, object, NDArray[np.float64]]:
        matrix = H2Matrix.from_kernel(
            problem.points, problem.kernel, diagonal=problem.diagonal, tolerance=TOLERANCE
        )
        factorization = matrix.factorize(TOLERANCE)
        return matrix, factorization, factorization.solve(b)

    with threadpool_limits(1):
        runs = [clock(ours) for _ in range(1 if run.quick else 3)]
        seconds, (matrix, factorization, x) = sorted(runs, key=lambda pair: pair[0])[len(runs) // 2]
        product = min(clock(lambda: matrix @ b)[0] for _ in range(7))
        peer = hmat_oss.run(problem.points, b, tolerance=TOLERANCE, **problem.peer)
    n_bytes = (matrix.n_bytes + factorization.n_bytes) / 1e6
    name = hmat_oss.NAME
    run.record(SECONDS, ours=seconds, peer=peer and peer.seconds, peer_name=name, goal=Goal.ratio(times))
    run.record(
        BYTES,
        ours=n_bytes,
        peer=peer and (peer.bytes + peer.factor_bytes) / 1e6,
        peer_name=name,
        goal=Goal.ratio(size),
    )
    run.record(PRODUCT, ours=product, peer=peer and peer.product, peer_name=name, goal=Goal.ratio(2))
    run.record(
        RESIDUAL,
        ours=problem.residual(x),
        peer=peer and problem.residual(peer.solution),
        peer_name=name,
        goal=Goal.ratio(1),
    )


@bench.case("square 65536")
def square(run: Run) -> None:
    """Two dimensions, where the peer is at its best."""
    direct(run, exponential("uniform_square", 4096 if run.quick else 65536), times=6, size=1 / 0.6)


@bench.case("sphere 65536")
def sphere(run: Run) -> None:
    """A surface in three dimensions with a kernel of long range."""
    direct(run, inverse_distance(4096 if run.quick else 65536), times=4, size=1 / 0.8)


@bench.case("cube 16384")
def cube(run: Run) -> None:
    """Three dimensions, where only a loose factorization with conjugate gradients pays."""
    problem = exponential("cube", 2048 if run.quick else 16384)
    b = problem.b

    def ours() -> NDArray[np.float64]:
        matrix = H2Matrix.from_kernel(
            problem.points, problem.kernel, diagonal=problem.diagonal, tolerance=TOLERANCE
        )
        return matrix.solve(b, TOLERANCE)[0]

    with threadpool_limits(1):
        seconds, x = clock(ours)
        dense_seconds, exact = clock(lambda: dense_solution(problem))
        peer = hmat_oss.run(problem.points, b, tolerance=TOLERANCE, loose=1e-2, **problem.peer)
    run.record(
        SECONDS, ours=seconds, peer=dense_seconds, peer_name="SciPy, dense Cholesky", goal=Goal.ratio(3)
    )
    run.record(
        SECONDS,
        ours=seconds,
        peer=peer and peer.seconds,
        peer_name=f"{hmat_oss.NAME}, loose + CG",
        goal=Goal.ratio(3),
    )
    run.record(
        RESIDUAL, ours=problem.residual(x), peer=problem.residual(exact), peer_name="SciPy, dense Cholesky"
    )


@bench.case("low rank in 96 dimensions")
def low_rank(run: Run) -> None:
    """Points near an 8-dimensional surface in 96 dimensions, like the features of the default study's network."""
    n = 1024 if run.quick else 8192
    generator = np.random.default_rng(2)
    points = generator.standard_normal((n, 8)) @ generator.standard_normal((8, 96)) / 96**0.5
    points = 0.5 * points + 0.005 * generator.standard_normal((n, 96))
    problem = Problem(points, kernels.SquaredExponential(length_scale=3.0), 1.0, {})
    b = problem.b

    def ours() -> tuple[int, NDArray[np.float64]]:
        matrix = DistributedLowRank.from_kernel(
            points, problem.kernel, Serial(), diagonal=problem.diagonal, tolerance=1e-4
        )
        n_bytes = matrix.n_bytes + 8 * matrix.rank**2  # and a factor with as many rows as the rank
        return n_bytes, np.asarray(matrix.factorize().solve(b))

    with threadpool_limits(1):
        seconds, (n_bytes, x) = clock(ours)
        dense_seconds, exact = clock(lambda: dense_solution(problem))
    name = "SciPy, dense Cholesky"
    run.record(SECONDS, ours=seconds, peer=dense_seconds, peer_name=name, goal=Goal.ratio(1))
    run.record(BYTES, ours=n_bytes / 1e6, peer=8 * n**2 / 1e6, peer_name=name, goal=Goal.ratio(1))
    run.record(RESIDUAL, ours=problem.residual(x), peer=problem.residual(exact), peer_name=name)


@bench.case("airports and cities")
def globe(run: Run) -> None:
    """Clustered points on a sphere: a Gaussian process's likelihood.

    The inverse amplifies the compression error by the condition number, so a residual of 1e-5 with the exact matrix
    needs a compression of 1e-8; the factorization, which gives the determinant, keeps 1e-6.
    """
    tight = 1e-8
    for name, n, bound in (("airports", None, 10.0), ("cities", 120_000, None)):
        points = load_points(name, n_points=3000 if run.quick else n, seed=0).points
        problem = Problem(points, kernels.Matern(nu=0.5, length_scale=0.1), 1e-2, {})

        def likelihood(problem: Problem = problem) -> NDArray[np.float64]:
            matrix = H2Matrix.from_kernel(problem.points, problem.kernel, diagonal=1e-2, tolerance=tight)
            factorization = matrix.factorize(TOLERANCE)
            factorization.logdet()
            return matrix.solve(problem.b, 1e-8, factorization=factorization)[0]

        with threadpool_limits(1):
            seconds, x = clock(likelihood)
        part = f"{name} {len(points)}, compressed at {tight:.0e}"
        run.record(SECONDS, ours=seconds, part=part, goal=Goal.ours(bound) if bound else None)
        run.record(RESIDUAL, ours=problem.residual(x), part=part, goal=Goal.ours(1e-5))


@bench.case("growth on the square")
def growth(run: Run) -> None:
    """Exponents of time and bytes from 16k to 262k points."""
    sizes = (1024, 4096) if run.quick else (16384, 65536, 262144)
    seconds, n_bytes = [], []
    for n in sizes:
        problem = exponential("uniform_square", n)

        def work(problem: Problem = problem) -> float:
            matrix = H2Matrix.from_kernel(problem.points, problem.kernel, diagonal=1e-2, tolerance=TOLERANCE)
            factorization = matrix.factorize(TOLERANCE)
            factorization.solve(problem.b)
            return float(matrix.n_bytes + factorization.n_bytes)

        with threadpool_limits(1):
            taken, stored = clock(work)
        seconds.append(taken)
        n_bytes.append(stored)
        run.record(SECONDS, ours=taken, part=str(n))
    for what, values in (("time", seconds), ("bytes", n_bytes)):
        exponent = float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
        run.record(EXPONENT, ours=exponent, part=what, goal=Goal.ours(1.1))


@bench.case("a million points on the square")
def million(run: Run) -> None:
    """As many threads as the machine has."""
    problem = exponential("uniform_square", 4096 if run.quick else 1_000_000)

    def work() -> tuple[H2Matrix, object]:
        matrix = H2Matrix.from_kernel(problem.points, problem.kernel, diagonal=1e-2, tolerance=TOLERANCE)
        factorization = matrix.factorize(TOLERANCE)
        factorization.solve(problem.b)
        return matrix, factorization

    seconds, (matrix, factorization) = clock(work)
    run.record(SECONDS, ours=seconds, goal=Goal.ours(180))
    run.record(BYTES, ours=(matrix.n_bytes + factorization.n_bytes) / 1e6, goal=Goal.ours(24e3))


@bench.case("algebra on the square")
def algebra(run: Run) -> None:
    """Product of two matrices and inverse: errors against random vectors and a tight compression, and growth."""
    tolerance = 1e-4
    sizes = (1024, 2048) if run.quick else (4096, 16384, 65536)
    error = Quantity("error / tolerance", "")
    operations = {
        "A @ B": (lambda a: a @ a, lambda a, x: a @ (a @ x)),
        "inverse": (lambda a: a.inverse(tolerance=tolerance), lambda a, x: a.solve(x, 1e-10)[0]),
    }
    for name, (operation, reference) in operations.items():
        seconds = []
        for n in sizes:
            problem = exponential("uniform_square", n)
            matrix = H2Matrix.from_kernel(problem.points, problem.kernel, diagonal=1e-2, tolerance=tolerance)
            x = np.random.default_rng(11).standard_normal((n, 4))
            with threadpool_limits(1):  # the least of three, since runs of some seconds vary by a tenth
                runs = [clock(lambda a=matrix, f=operation: f(a)) for _ in range(1 if run.quick else 3)]
            taken, result = min(seconds for seconds, _ in runs), runs[-1][1]
            # The inverse magnifies the error of A by the condition number: compare with a tight compression.
            known = reference(matrix.recompress(tolerance=1e-8), x)
            seconds.append(taken)
            off = float(np.linalg.norm(result @ x - known) / np.linalg.norm(known)) / tolerance
            run.record(error, ours=off, part=f"{name} {n}", goal=Goal.ours(10))
            run.record(Quantity("time", "s"), ours=taken, part=f"{name} {n}")
        exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
        run.record(EXPONENT, ours=exponent, part=name, goal=Goal.ours(1.2))


@bench.case("a GPU beside one core")
def gpu(run: Run) -> None:
    """The square by direct solution, the cube by a loose factorization with conjugate gradients."""
    if not torch.cuda.is_available():
        print("skipped: torch finds no GPU on this machine")
        return
    race_devices(run, torch.device("cuda"))


def race_devices(run: Run, device: torch.device) -> None:
    """Compress, factorize and solve on the points' device: on a GPU, and on one core."""

    def solve(problem: Problem, where: torch.device) -> NDArray[np.float64]:
        points, b = (torch.from_numpy(array).to(where) for array in (problem.points, problem.b))
        matrix = H2Matrix.from_kernel(points, problem.kernel, diagonal=problem.diagonal, tolerance=TOLERANCE)
        x = matrix.solve(b, TOLERANCE)[0] if matrix.rows.fills_space else matrix.factorize(TOLERANCE).solve(b)
        return x.cpu().numpy()

    solve(exponential("uniform_square", 2048), device)  # libraries load at their first call
    for name in ("uniform_square", "cube"):
        problem = exponential(name, 2048 if run.quick else 262144)
        with threadpool_limits(1):
            seconds, x = clock(lambda p=problem: solve(p, device))
            one_core, exact = clock(lambda p=problem: solve(p, torch.device("cpu")))
        part = f"{name} {len(problem.points)}"
        run.record(SECONDS, ours=seconds, peer=one_core, peer_name="one core", goal=Goal.ratio(10), part=part)
        run.record(
            RESIDUAL, ours=problem.residual(x), peer=problem.residual(exact), peer_name="one core", part=part
        )


if __name__ == "__main__":
    sys.exit(bench.main())
