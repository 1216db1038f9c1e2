"""Stage `scaling`: time and storage against the number of points."""

import time
from argparse import Namespace
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.artifacts.results.scaling import ScalingFacts, ScalingRow
from pipeline.config.matrices import Scaling
from pipeline.data import load_points
from pipeline.hmatrix import H2Matrix, kernels
from pipeline.stages.parts.matrices import in_words
from pipeline.stages.parts.spec import read_spec, written

NUGGET = 1e-2
REPEATS = 5


def run(options: Namespace) -> None:
    """Compress, multiply, factorize and solve at every size, on one thread."""
    spec = read_spec(options.spec, Scaling)
    kernel = kernels.Matern(nu=0.5, length_scale=spec.length_scale)
    rows = []
    with threadpool_limits(1):
        for n in spec.sizes:
            rows.append(measure(n, kernel, spec.tolerance))
            told = (f"{key} {value if isinstance(value, int) else f'{value:.3g}'}" for key, value in rows[-1])
            print("scaling  " + "  ".join(told), flush=True)
    with written(options, "scaling", spec) as draft:
        draft.save_json("rows", rows)
        draft.facts = ScalingFacts(
            kernel=in_words(kernel), points="uniform in the unit square", tolerance=spec.tolerance
        )


def measure(n: int, kernel: kernels.Kernel, tolerance: float) -> ScalingRow:
    """Return one row: seconds, bytes and error of each operation for n uniform points in the unit square."""
    points = load_points("uniform_square", n_points=n, seed=0).points
    x = np.random.default_rng(1).standard_normal(n)
    start = time.perf_counter()
    matrix = H2Matrix.from_kernel(points, kernel, diagonal=NUGGET, tolerance=tolerance)
    compressed = time.perf_counter()
    factorization = matrix.factorize(tolerance)
    factorized = time.perf_counter()
    return ScalingRow(
        n=n,
        compress_seconds=compressed - start,
        factorize_seconds=factorized - compressed,
        product_seconds=_best(lambda: matrix @ x),
        solve_seconds=_best(lambda: factorization.solve(x)),
        operator_bytes=matrix.n_bytes,
        factor_bytes=factorization.n_bytes,
        relative_error=matrix.error_estimate(),
    )


def _best(work: Callable[[], object]) -> float:
    """The shortest of a few runs, in seconds."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
