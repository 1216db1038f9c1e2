"""The time of dense algebra in place of a hierarchical matrix: measured on some rows, and scaled up."""

import time

import numpy as np
import torch

from pipeline.stages.parts.solved import Solved

ROWS = 2048  # in the measured block: 34 MB, a tenth of a second


def dense_seconds(solved: Solved, n_columns: int) -> float | None:
    """Estimate the time of one process to evaluate, factorize and solve the dense matrix, as if memory sufficed.

    The time of a small block is scaled up: entries as n², a Cholesky factorization as n³, a solve as n². Small blocks
    run at a lower rate than large ones, so the true time is a little less. Only covariances are timed: the entries of
    boundary elements are integrals, for which a block would tell nothing.
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
    # Any matrix takes the same time to factorize; this one is certainly definite.
    block.diagonal().add_(block.abs().sum(dim=1))
    ready = time.perf_counter()
    factor = torch.linalg.cholesky(block)
    factorized = time.perf_counter()
    torch.cholesky_solve(right, factor)
    done = time.perf_counter()
    times = n / max(len(rows), 1)
    return times**2 * (evaluated - start + done - factorized) + times**3 * (factorized - ready)
