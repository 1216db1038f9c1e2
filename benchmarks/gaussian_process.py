"""Gaussian processes beside gpboost, higp, scikit-learn and gpytorch: nats, seconds and errors, one thread, in one run.

The model: Matern 3/2 of length .1 and variance 1 on uniform points of the unit square, nugget 1e-2; values are drawn.
The exact likelihood is dense at 8,192 points, and beyond that ours at tolerance 1e-9. Peers come from PyPI
(`pip install '.[bench]'`); without one, its columns say that it is missing. gpboost's is Vecchia's approximation of so
many neighbors, higp's the product of its H2 matrix at tolerance 1e-6, gpytorch's its default for large n (conjugate
gradients and Lanczos quadrature). Whole fits and maps take the threads that OMP_NUM_THREADS gives.
"""

import math
import sys
import time
from collections.abc import Callable
from functools import cache
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
EARTH = 6371.0  # its radius in km: points on the globe are unit vectors
NATS = Quantity("error of the likelihood", "nats")
SECONDS = Quantity("one likelihood", "s")
FIT = Quantity("whole fit", "s")
GRADIENT = Quantity("gradient / value", "")
PRODUCT = Quantity("product", "s")
SOLVE = Quantity("solve to 1e-6", "s")
DEVIATION = Quantity("error of std", "")
SOLVE_EXACTLY = Quantity("solve to 1e-8", "s")
RESIDUAL = Quantity("residual on exact rows", "")
PREDICTION = Quantity("mean and std", "s")

bench = Benchmark(
    "gaussian_process", __doc__, packages=("torch", "gpboost", "higp", "gpytorch", "scikit-learn")
)


@cache
def drawn(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points and values of the model."""
    points = np.random.default_rng(0).random((n, 2))
    # Only fits see more than 300,000 values, to which a share of 1e-6 means nothing, and which take memory to draw.
    A = H2Matrix.from_kernel(points, KERNEL, diagonal=NUGGET, tolerance=1e-8 if n <= 300_000 else 1e-6)
    return points, A.factorize().sample(np.random.default_rng(1)).numpy()


def ours(
    points: NDArray[np.float64], values: NDArray[np.float64], tolerance: float = 1e-6
) -> GaussianProcess:
    """Return the model with its likelihood evaluated."""
    process = GaussianProcess(KERNEL, nugget=NUGGET, trend=None, optimizer=None, tolerance=tolerance)
    return process.fit(points, values)


def exact(points: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Return the log-likelihood by dense algebra, or ours at a tolerance of 1e-9 where that is too large."""
    n = len(points)
    if n > 8192:
        return ours(points, values, 1e-9).log_likelihood_
    factor = scipy.linalg.cholesky(KERNEL(points, points) + NUGGET * np.eye(n), lower=True, overwrite_a=True)
    half = scipy.linalg.solve_triangular(factor, values, lower=True)
    return float(-np.log(np.diag(factor)).sum() - 0.5 * half @ half - 0.5 * n * math.log(2 * math.pi))


def vecchia(points: NDArray[np.float64], values: NDArray[np.float64], m: int) -> Callable[[], float] | None:
    """Return gpboost's log-likelihood with m neighbors, its set-up included as ours is."""
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


def likelihood(run: Run, n: int, goals: bool) -> None:
    """Race one likelihood, and tell how many nats each is off."""
    points, values = drawn(n)
    truth = exact(points, values)
    off = abs(ours(points, values).log_likelihood_ - truth)
    for m in (60, 20):
        peer, name = vecchia(points, values, m), f"gpboost, Vecchia m = {m}"
        first = goals and m == 60
        run.record(
            NATS, ours=off, peer=peer and abs(peer() - truth), peer_name=name,
            goal=Goal.ours(0.3) if first else None, part=f"m = {m}",
        )  # fmt: skip
        run.race(
            SECONDS, ours=lambda: ours(points, values), peer=peer, peer_name=name, repeats=3,
            goal=Goal.ratio(3.0 if m == 60 else 1.0) if goals else None, part=f"m = {m}",
        )  # fmt: skip


@bench.case("likelihood 8192")
def small(run: Run) -> None:
    """Where dense algebra still tells the truth, and the libraries of dense algebra can be raced."""
    n = 1024 if run.quick else 8192
    likelihood(run, n, goals=False)
    points, values = drawn(n)
    truth, off = exact(points, values), abs(ours(points, values).log_likelihood_ - exact(points, values))
    for name, peer in (("scikit-learn, dense", dense(points, values)), ("gpytorch", lanczos(points, values))):
        run.record(NATS, ours=off, peer=peer and abs(peer() - truth), peer_name=name, part=name)
        run.race(SECONDS, ours=lambda: ours(points, values), peer=peer, peer_name=name, repeats=1, part=name)


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
    likelihood(run, 2048 if run.quick else 65536, goals=True)


@bench.case("likelihood 262144")
def larger(run: Run) -> None:
    """How it grows."""
    likelihood(run, 4096 if run.quick else 262144, goals=False)


@bench.case("gradient 65536")
def gradient(run: Run) -> None:
    """Length scale, variance and nugget: seconds of the gradient beside those of the value."""
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
    start = time.perf_counter()
    GaussianProcess(KERNEL, trend=None).fit(points, values)
    run.record(FIT, ours=time.perf_counter() - start, goal=Goal.ours(600.0))


@bench.case("product and solve 65536")
def beside_higp(run: Run) -> None:
    """The peer's H2 matrix, with conjugate gradients without a preconditioner on its product."""
    points, values = drawn(2048 if run.quick else 65536)
    A = H2Matrix.from_kernel(points, KERNEL, diagonal=NUGGET, tolerance=1e-6)
    higp = optional_import("higp_cext")
    if higp is None:
        for quantity, action in ((PRODUCT, lambda: A @ values), (SOLVE, lambda: A.solve(values, 1e-6))):
            run.race(quantity, ours=action, peer_name="higp", goal=Goal.ratio(20), repeats=3)
        return
    peer = higp.krnlmat.setup(np.ascontiguousarray(points.T), 2, 0.1, 1.0, NUGGET, nthreads=1, h2_tol=1e-6)
    run.race(
        PRODUCT, ours=lambda: A @ values, peer=lambda: peer.matmul(values), peer_name="higp", goal=Goal.ratio(20),
        repeats=3,
    )  # fmt: skip
    steps = 10  # of its iteration, timed; how many it needs follows from ours without a preconditioner
    _, info = scipy_iterations(A, values)
    with threadpool_limits(1):
        start = time.perf_counter()
        A.solve(values, 1e-6)
        middle = time.perf_counter()
        for _ in range(steps):
            peer.matmul(values)
        end = time.perf_counter()
    run.record(
        SOLVE, ours=middle - start, peer=(end - middle) / steps * info, goal=Goal.ratio(20),
        peer_name=f"higp, {info} products of plain CG",
    )  # fmt: skip


def scipy_iterations(A: H2Matrix, b: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return the solution to 1e-6 by SciPy's conjugate gradients, and how many products it took."""
    count = 0

    def counted(_: Any) -> None:
        nonlocal count
        count += 1

    x, _ = scipy.sparse.linalg.cg(A.as_linear_operator(), b, rtol=1e-6, maxiter=5000, callback=counted)
    return x, count


@bench.case("solve of the cities")
def cities(run: Run) -> None:
    """A nugget below tolerance times norm: `solve` has to compress anew, and to tell what is reached on exact rows."""
    places = load_points("cities", n_points=2000 if run.quick else 100_000, seed=0).points
    kernel = kernels.Matern(nu=1.5, length_scale=500 / EARTH)
    start = time.perf_counter()
    A = H2Matrix.from_kernel(places, kernel, diagonal=1e-3, tolerance=1e-4)
    _, info = A.solve(np.random.default_rng(0).standard_normal(len(places)))
    seconds = time.perf_counter() - start
    run.record(RESIDUAL, ours=info.exact_residual or math.nan)
    run.record(SOLVE_EXACTLY, ours=seconds)


@bench.case("standard deviation 8192")
def deviation(run: Run) -> None:
    """Standard deviations at 2,000 new points, without one solve for each, beside dense algebra."""
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
    """Mean and standard deviation of the geoid's height between the places of its grid, on one of half the step."""
    places = load_points("geoid", n_points=4096 if run.quick else None, seed=0)
    n = 60 if run.quick else 1440
    latitude = np.repeat(-90 + 90 / n * (np.arange(2 * n) + 0.5), 4 * n)
    longitude = np.tile(-180 + 90 / n * (np.arange(4 * n) + 0.5), 2 * n)
    # A twentieth of a meter of noise: that of the grid's rounding and of the model's own error.
    kernel = kernels.Matern(nu=1.5, length_scale=0.1, variance=900.0)
    start = time.perf_counter()
    process = GaussianProcess(kernel, nugget=0.05**2, optimizer=None)
    process.fit(places.points, places.values["height"])
    process.predict(unit_vectors(latitude, longitude), return_std=True)
    part = f"{len(places.points)} to {len(latitude)} places"
    run.record(PREDICTION, ours=time.perf_counter() - start, goal=Goal.ours(300.0), part=part)


if __name__ == "__main__":
    sys.exit(bench.main())
