"""Problems for factorizations by parts, and dense algebra to compare with."""

import numpy as np
import torch

from pipeline.hmatrix import kernels
from pipeline.hmatrix.admissibility import Strong, interactions
from pipeline.hmatrix.entries import kernel_matrix
from pipeline.hmatrix.geometry import trees_of
from pipeline.hmatrix.parts import Problem
from pipeline.hmatrix.skeleton import FarSampling

N = 500
KINDS = {"cholesky": 0, "ldlt": 1, "lu": 2}
EXPONENTIAL = kernels.Matern(nu=0.5, length_scale=0.2)
WAVE = kernels.Helmholtz(wavenumber=3.0)
DRIFT = kernels.Custom(lambda x, y: torch.exp(-torch.cdist(x, y) / 0.3) * (1 + x[..., :1]))


def points_of(name, n=N):
    generator = np.random.default_rng(0)
    if name == "clusters":
        centers = generator.random((6, 2))
        scatter = 10 ** generator.uniform(-5, -1, (n, 1)) * generator.standard_normal((n, 2))
        return centers[generator.integers(0, 6, n)] + scatter
    if name == "duplicates":  # every place holds eleven points, more than a leaf does
        return np.repeat(generator.random((-(-n // 11), 2)), 11, axis=0)[:n]
    return generator.random((n, {"line": 1, "square": 2, "cube": 3}[name]))


def problem_of(
    points, kernel=EXPONENTIAL, diagonal=0.1, *, kind="cholesky", working="float64", stored=None, tolerance=1e-10,
    rule=None, leaf_size=10,
):  # fmt: skip
    tree, _ = trees_of(points, None, leaf_size)
    lists = interactions(tree, tree, rule or Strong())
    wide = np.dtype(np.complex128 if working.startswith("c") else np.float64)
    matrix = kernel_matrix(kernel, tree, tree, is_complex=wide.kind == "c")
    norm = float(np.linalg.norm(dense(points, kernel, 0.0)))
    return Problem(
        matrix, tree, lists.near, lists.far, np.full(len(points), diagonal, wide), KINDS[kind], np.dtype(working),
        np.dtype(stored or working), FarSampling.for_tolerance(tolerance, norm, tree.n_boxes),
        lists.first_far_level(tree), 60,
    )  # fmt: skip


def dense(points, kernel, diagonal):
    x = torch.from_numpy(points)
    return kernel(x, x).numpy() + diagonal * np.eye(len(points))


def in_tree_order(problem, matrix):
    order = problem.tree.permutation
    return matrix[np.ix_(order, order)]


def off(matrix, x, b):
    return np.linalg.norm(matrix @ x.reshape(b.shape) - b) / np.linalg.norm(b)
