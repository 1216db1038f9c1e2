"""Gaussian processes beside gpboost, higp, scikit-learn and gpytorch: nats, seconds and errors, one thread, in one run.

The model: Matern 3/2 of length .1 and variance 1 on uniform points of the unit square, nugget 1e-2; values are drawn.
The exact likelihood is dense up to 8,192 points, and beyond that ours at tolerance 1e-9. Peers come from packages
(`pip install '.[bench]'`); where one is missing, its columns say so. gpboost computes Vecchia's approximation with a
given number of neighbors, higp multiplies with its H2 matrix at tolerance 1e-6, gpytorch takes its default for large n
(conjugate gradients and Lanczos quadrature). Peers that take minutes are called once. Each case has a process of its
own for at most half an hour. Whole fits and maps use the number of threads in OMP_NUM_THREADS.
"""

import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from _frame import Benchmark, Goal, Quantity, Run, interleave, optional_import
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipeline.data import load_points
from pipeline.data.globe import unit_vectors
from pipeline.hmatrix import GaussianProcess, H2Matrix, kernels

KERNEL = kernels.Matern(nu=1.5, length_scale=0.1)
NUGGET = 1e-2
MATERN_32 = 2  # higp's number for this kernel
MOST_STEPS = 2000  # of the peer's iteration
STEPS_AT_65536 = 200  # enough to show a ratio of 50 without an hour of waiting
EARTH = 6371.0  # its radius in km: points on the globe are unit vectors
NATS = Quantity("error of the likelihood", "nats")
SECONDS = Quantity("one likelihood", "s")
FIT = Quantity("whole fit", "s")
GRADIENT = Quantity("gradient / value", "")
PRODUCT = Quantity("product", "s")
SOLVE = Quantity("solve to 1e-6", "s")
DEVIATION = Quantity("error of std", "")
MEMORY = Quantity("peak memory", "GB")
STATED = Quantity("error of std, as stated", "")
SOLVE_EXACTLY = Quantity("solve to 1e-8", "s")
RESIDUAL = Quantity("residual on exact rows", "")
PREDICTION = Quantity("mean and std", "s")

bench = Benchmark(
    "gaussian_process", __doc__, packages=("torch", "gpboost", "higp", "gpytorch", "scikit-learn")
)
bench.parser.set_defaults(seconds=1800.0)


@cache
def drawn(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points and values of the model."""
    points = np.random.default_rng(0).random((n, 2))
    # Only fits use more than 300,000 values. For these a share of 1e-6 means nothing, and drawing them takes memory.
    A = H2Matrix.from_kernel(points, KERNEL, diagonal=NUGGET, tolerance=1e-8 if n <= 300_000 else 1e-6)
    return points, A.factorize().sample(np.random.default_rng(1)).numpy()


def ours(
    points: NDArray[np.float64], values: NDArray[np.float64], tolerance: float = 1e-6
) -> GaussianProcess:
    """Return the model with its likelihood evaluated."""
    process = GaussianProcess(KERNEL, nugget=NUGGET, trend=None, optimizer=None, tolerance=tolerance)
    return process.fit(points, values)


def exact(points: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Return the log-likelihood by dense algebra, or ours at a tolerance of 1e-9 where the matrix is too large."""
    n = len(points)
    if n > 8192:
        return ours(points, values, 1e-9).log_likelihood_
    factor = scipy.linalg.cholesky(KERNEL(points, points) + NUGGET * np.eye(n), lower=True, overwrite_a=True)
    half = scipy.linalg.solve_triangular(factor, values, lower=True)
    return float(-np.log(np.diag(factor)).sum() - 0.5 * half @ half - 0.5 * n * math.log(2 * math.pi))


def vecchia(points: NDArray[np.float64], values: NDArray[np.float64], m: int) -> Callable[[], float] | None:
    """Return gpboost's log-likelihood with m neighbors; set-up counts, as in ours."""
    gpboost = optional_import("gpboost")
    if gpboost is None:
        return None

    def value() -> float:
        model = gpboost.GPModel(
            gp_coords=points, cov_function="matern", cov_fct_shape=1.5, gp_approx="vecchia", num_neighbors=m,
            likelihood="gaussian", num_parallel_threads=1,
        )  # fmt: skip
        return -float(model.neg_log_likelihood(cov_pars=np.array([NUGGET, 1.0, 0.1]), y=values))

    return value


def race(
    run: Run,
    n: int,
    peers: Mapping[str, Callable[[], float] | None],
    *,
    repeats: int,
    nats: Goal | None = None,
    ratios: Sequence[float] = (),
) -> None:
    """Time one likelihood beside each peer's, and report the error of each in nats.

    Args:
        run: The case.
        n: Number of values.
        peers: Log-likelihoods by name; None for a missing peer.
        repeats: Calls of each; if there are several, one more call is made first and not counted.
        nats: Goal for our own error.
        ratios: Goals for the ratio of seconds, in the peers' order.
    """
    points, values = drawn(n)
    truth = exact(points, values)
    for number, (name, peer) in enumerate(peers.items()):
        found: dict[str, float] = {}

        def own(found: dict[str, float] = found) -> None:
            found["ours"] = ours(points, values).log_likelihood_

        def theirs(found: dict[str, float] = found, peer: Callable[[], float] | None = peer) -> None:
            found["peer"] = peer() if peer else math.nan

        seconds, peer_seconds = interleave(own, peer and theirs, repeats=repeats, warmup=int(repeats > 1))
        off = abs(found["peer"] - truth) if peer else None
        run.record(
            NATS, ours=abs(found["ours"] - truth), peer=off, peer_name=name, part=name,
            goal=nats if number == 0 else None,
        )  # fmt: skip
        run.record(
            SECONDS, ours=seconds, peer=peer_seconds, peer_name=name, part=name,
            goal=Goal.ratio(ratios[number]) if ratios else None,
        )  # fmt: skip


def beside_vecchia(run: Run, n: int, **options: Any) -> None:
    """Race gpboost with 60 and with 20 neighbors."""
    points, values = drawn(n)
    race(run, n, {f"gpboost, Vecchia m = {m}": vecchia(points, values, m) for m in (60, 20)}, **options)


@bench.case("likelihood 8192")
def small(run: Run) -> None:
    """A size at which dense algebra still gives the exact value."""
    beside_vecchia(run, 1024 if run.quick else 8192, repeats=3, nats=Goal.ours(0.1))


@bench.case("likelihood 8192, dense")
def beside_scikit_learn(run: Run) -> None:
    """Dense algebra itself; it takes a minute."""
    n = 1024 if run.quick else 8192
    race(run, n, {"scikit-learn, dense": dense(*drawn(n))}, repeats=1)


@bench.case("likelihood 8192, Lanczos")
def beside_gpytorch(run: Run) -> None:
    """Conjugate gradients and Lanczos quadrature on dense products; they take minutes."""
    n = 1024 if run.quick else 8192
    race(run, n, {"gpytorch": lanczos(*drawn(n))}, repeats=1)


def dense(points: NDArray[np.float64], values: NDArray[np.float64]) -> Callable[[], float]:
    """Return scikit-learn's log-likelihood."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern

    def value() -> float:
        model = GaussianProcessRegressor(Matern(0.1, nu=1.5), alpha=NUGGET, optimizer=None)
        return float(model.fit(points, values).log_marginal_likelihood_value_)

    return value


def lanczos(points: NDArray[np.float64], values: NDArray[np.float64]) -> Callable[[], float] | None:
    """Return gpytorch's log-likelihood."""
    gpytorch = optional_import("gpytorch")
    if gpytorch is None:
        return None
    import torch

    X, y = torch.from_numpy(points), torch.from_numpy(values)

    class Model(gpytorch.models.ExactGP):  # type: ignore[misc, name-defined]
        def __init__(self, noise: Any) -> None:
            super().__init__(X, y, noise)
            self.mean_module = gpytorch.means.ZeroMean()
            self.covar_module = gpytorch.kernels.MaternKernel(nu=1.5)

        def forward(self, x: Any) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    def value() -> float:
        noise = gpytorch.likelihoods.GaussianLikelihood().double()
        model = Model(noise).double()
        model.covar_module.lengthscale, noise.noise = 0.1, NUGGET
        model.train()
        with torch.no_grad():
            return float(gpytorch.mlls.ExactMarginalLogLikelihood(noise, model)(model(X), y)) * len(X)

    return value


@bench.case("likelihood 65536")
def large(run: Run) -> None:
    """The goal's size."""
    n = 2048 if run.quick else 65536
    beside_vecchia(run, n, repeats=3, nats=Goal.ours(0.3), ratios=(3.0, 1.0))


@bench.case("likelihood 262144")
def larger(run: Run) -> None:
    """A larger size, to show the growth."""
    beside_vecchia(run, 4096 if run.quick else 262144, repeats=1)


@bench.case("gradient 65536")
def gradient(run: Run) -> None:
    """Length scale, variance and nugget: seconds of the gradient relative to those of the value."""
    points, values = drawn(2048 if run.quick else 65536)
    process = GaussianProcess(KERNEL, nugget="fit", trend=None, max_iterations=1)
    model, theta = process.likelihood(points, values), np.log([0.1, 1.0, NUGGET])
    at = model.at(theta)
    value, derivatives = interleave(lambda: model.at(theta), lambda: model.derivatives(at), repeats=3)
    run.record(GRADIENT, ours=(derivatives or math.nan) / value, goal=Goal.ours(3.0))


@bench.case("fit of the airports")
def airports(run: Run) -> None:
    """Elevations of all airports, Matern 1/2 on the sphere, constant trend: maximum likelihood on all values."""
    places = load_points("airports", n_points=1000 if run.quick else None, seed=0)
    process = GaussianProcess(kernels.Matern(nu=0.5, length_scale=0.1), bounds={"nugget": (100.0, 1e6)})
    start = time.perf_counter()
    process.fit(places.points, places.values["elevation"])
    run.record(
        FIT, ours=time.perf_counter() - start, goal=Goal.ours(60.0), part=f"{len(places.points)} values"
    )


@bench.case("fit of a million")
def million(run: Run) -> None:
    """A fit of 1,000,000 values drawn from the model."""
    points, values = drawn(4096 if run.quick else 1_000_000)
    with peak_memory() as peak:
        start = time.perf_counter()
        GaussianProcess(KERNEL, trend=None).fit(points, values)
        seconds = time.perf_counter() - start
    run.record(FIT, ours=seconds, goal=Goal.ours(600.0))
    run.record(MEMORY, ours=peak[0])


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Yield a list that holds the most memory of the process in the block, in GB, when the block is done."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    peak: list[float] = []
    yield peak
    status = Path("/proc/self/status").read_text()
    peak.append(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e6)  # type: ignore[index]


@bench.case("product 65536")
def product(run: Run) -> None:
    """The peer's H2 matrix at the same tolerance."""
    points, values = drawn(2048 if run.quick else 65536)
    A = H2Matrix.from_kernel(points, KERNEL, diagonal=NUGGET, tolerance=1e-6)
    peer = higp_matrix(points)
    run.race(
        PRODUCT, ours=lambda: A @ values, peer=peer and (lambda: peer.matmul(values)), peer_name="higp",
        goal=Goal.ratio(20), repeats=3,
    )  # fmt: skip


@bench.case("solve 16384")
def solve(run: Run) -> None:
    """The peer's conjugate gradients: SciPy's, on its product, with its AFN preconditioner, until they converge."""
    solve_beside_higp(run, 1024 if run.quick else 16384, MOST_STEPS)


@bench.case("solve 65536")
def solve_large(run: Run) -> None:
    """The peer would take an hour and is stopped before: its reported seconds are fewer than it needs."""
    solve_beside_higp(run, 2048 if run.quick else 65536, STEPS_AT_65536)


def solve_beside_higp(run: Run, n: int, most_steps: int) -> None:
    """Time one solve, and the peer's until it converges or has taken so many steps."""
    points, values = drawn(n)
    A = H2Matrix.from_kernel(points, KERNEL, diagonal=NUGGET, tolerance=1e-6)
    peer, M = higp_matrix(points), higp_preconditioner(points)
    with threadpool_limits(1):
        start = time.perf_counter()
        A.solve(values, 1e-6)
        seconds = time.perf_counter() - start
        if peer is None or M is None:
            run.record(SOLVE, ours=seconds, peer_name="higp", goal=Goal.ratio(20))
            return
        start = time.perf_counter()
        x, count = conjugate_gradients(peer.matmul, M.matmul, values, most_steps)
        peer_seconds = time.perf_counter() - start
    # The peer's matrix differs from ours within the tolerance.
    residual = float(np.linalg.norm(A @ x - values) / np.linalg.norm(values))
    name = f"higp, {'stopped after ' * (count == most_steps)}{count} steps to {residual:.0e}"
    run.record(SOLVE, ours=seconds, peer=peer_seconds, goal=Goal.ratio(20), peer_name=name)


def higp_matrix(points: NDArray[np.float64]) -> Any | None:
    """Return higp's H2 matrix of the model."""
    higp = optional_import("higp_cext")
    if higp is None:
        return None
    columns = np.ascontiguousarray(points.T)
    return higp.krnlmat.setup(columns, MATERN_32, 0.1, 1.0, NUGGET, nthreads=1, h2_tol=1e-6, seed=0)


def higp_preconditioner(points: NDArray[np.float64]) -> Any | None:
    """Return higp's preconditioner with its default options."""
    higp = optional_import("higp_cext")
    if higp is None:
        return None
    columns = np.ascontiguousarray(points.T)
    return higp.precond.setup_afn(columns, MATERN_32, 0.1, 1.0, NUGGET, nthreads=1, seed=0)


def conjugate_gradients(
    product: Callable[[Any], Any],
    preconditioner: Callable[[Any], Any],
    b: NDArray[np.float64],
    most_steps: int = MOST_STEPS,
) -> tuple[NDArray[np.float64], int]:
    """Return SciPy's conjugate-gradient solution to 1e-6, as far as it gets, and the number of steps."""
    count = 0

    def counted(_: Any) -> None:
        nonlocal count
        count += 1

    def operator(action: Callable[[Any], Any]) -> scipy.sparse.linalg.LinearOperator:
        return scipy.sparse.linalg.LinearOperator(
            (len(b), len(b)), matvec=lambda x: action(np.ascontiguousarray(x.ravel())), dtype=b.dtype
        )

    A, M = operator(product), operator(preconditioner)
    x, _ = scipy.sparse.linalg.cg(A, b, M=M, rtol=1e-6, maxiter=most_steps, callback=counted)
    return x, count


@bench.case("solve of the cities")
def cities(run: Run) -> None:
    """A nugget below tolerance times norm: `solve` has to compress anew, and to report the error on exact rows."""
    places = load_points("cities", n_points=2000 if run.quick else 100_000, seed=0).points
    kernel = kernels.Matern(nu=1.5, length_scale=500 / EARTH)
    start = time.perf_counter()
    A = H2Matrix.from_kernel(places, kernel, diagonal=1e-3, tolerance=1e-4)
    _, info = A.solve(np.random.default_rng(0).standard_normal(len(places)))
    seconds = time.perf_counter() - start
    run.record(RESIDUAL, ours=info.exact_residual or math.nan)
    run.record(SOLVE_EXACTLY, ours=seconds)
    start = time.perf_counter()
    _, info = A.solve(np.random.default_rng(0).standard_normal(len(places)), 1e-6, exact=True)
    seconds = time.perf_counter() - start
    run.record(RESIDUAL, ours=info.exact_residual or math.nan, goal=Goal.ours(1e-6), part="exact=True")
    run.record(SOLVE, ours=seconds, part="exact=True")


@bench.case("standard deviation 8192")
def deviation(run: Run) -> None:
    """Standard deviations at 2,000 new points, without a solve for each, compared with dense algebra."""
    n, q = (1024, 300) if run.quick else (8192, 2000)
    points, values = drawn(n)
    new = np.random.default_rng(2).random((q, 2))
    process = ours(points, values)
    start = time.perf_counter()
    _, found = process.predict(new, return_std=True, exact=False)
    seconds = time.perf_counter() - start
    factor = scipy.linalg.cholesky(KERNEL(points, points) + NUGGET * np.eye(n), lower=True, overwrite_a=True)
    half = scipy.linalg.solve_triangular(factor, KERNEL(points, new), lower=True)
    truth = np.sqrt(1 - (half**2).sum(axis=0))
    run.record(DEVIATION, ours=float(np.sqrt(np.mean((found / truth - 1) ** 2))), goal=Goal.ours(0.01))
    run.record(PREDICTION, ours=seconds, part=f"{q} points")


@bench.case("geoid")
def geoid(run: Run) -> None:
    """Mean and standard deviation of the geoid's height between its grid points, on a grid with half the step."""
    places = load_points("geoid", n_points=4096 if run.quick else None, seed=0)
    n = 60 if run.quick else 720  # the grid has 720 steps of latitude
    latitude = np.repeat(-90 + 90 / n * (np.arange(2 * n) + 0.5), 4 * n)
    longitude = np.tile(-180 + 90 / n * (np.arange(4 * n) + 0.5), 2 * n)
    # Half a meter of noise.
    kernel = kernels.Matern(nu=1.5, length_scale=0.1, variance=900.0)
    with peak_memory() as peak:
        start = time.perf_counter()
        process = GaussianProcess(kernel, nugget=0.5**2, optimizer=None)
        process.fit(places.points, places.values["height"])
        process.predict(unit_vectors(latitude, longitude), return_std=True)
        seconds = time.perf_counter() - start
    part = f"{len(places.points)} to {len(latitude)} places"
    run.record(PREDICTION, ours=seconds, goal=Goal.ours(300.0), part=part)
    run.record(MEMORY, ours=peak[0], part=part)
    run.record(STATED, ours=process.std_error_, part=part)


if __name__ == "__main__":
    sys.exit(bench.main())
