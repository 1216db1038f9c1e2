"""What dense algebra would take in place of a hierarchical matrix: measured on some rows, and scaled up."""

import time

import numpy as np
import torch

from pipeline.stages.parts.solved import Solved

ROWS = 2048  # measured: 34 MB, a tenth of a second


def dense_seconds(solved: Solved, n_columns: int) -> float | None:
    """Foretell how long one process would evaluate, factorize and solve the dense matrix, were memory no matter.

    Entries take n² of the time of some rows' block, a Cholesky factorization n³ and a solve n². Small blocks run at a
    lower rate than large ones, so that the true time is a little less. Only covariances are timed: of boundary
    elements, whose entries are integrals, a block would tell nothing.
    """
    kernel = solved.kernel
    if not solved.points.has("points") or not kernel.positive_definite or kernel.singular:
        return None
    points = solved.points.array("points")
    n = len(points)
    chosen = np.sort(np.random.default_rng(0).choice(n, min(ROWS, n), replace=False))
    rows = torch.from_numpy(np.array(points[chosen], np.float64))
    right = torch.ones(len(rows), max(n_columns, 1), dtype=torch.float64)
    start = time.perf_counter()
    block = kernel(rows, rows)
    evaluated = time.perf_counter()
    # Any matrix is factorized in the same time; this one is definite for certain.
    block.diagonal().add_(block.abs().sum(dim=1))
    ready = time.perf_counter()
    factor = torch.linalg.cholesky(block)
    factorized = time.perf_counter()
    torch.cholesky_solve(right, factor)
    done = time.perf_counter()
    times = n / max(len(rows), 1)
    return times**2 * (evaluated - start + done - factorized) + times**3 * (factorized - ready)
