"""Entries of a kernel matrix for native routines: a program that the routines run, or calls of the kernel.

The native loops know the closed forms of those kernels of the registry that depend on the distance alone, and of their
real sums, products and multiples. Any other kernel is called block by block.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.hmatrix import _native
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.kernels import (
    Helmholtz,
    Kernel,
    LaplaceSingleLayer,
    Matern,
    Product,
    RationalQuadratic,
    Scaled,
    SquaredExponential,
    Sum,
    Swapped,
    Yukawa,
)

Step = tuple[int, list[float], list[float]]
Entries = Callable[[NDArray[np.int32], NDArray[np.int32]], NDArray[Any]]

# Codes of steps, as in loops.hpp and evaluator.hpp.
_MATERN = {0.5: 0, 1.5: 1, 2.5: 2}
_GAUSS, _RATIONAL_QUADRATIC, _INVERSE, _LOGARITHM, _SCREENED = 3, 4, 5, 6, 7
_WAVE, _ADD, _MULTIPLY, _SCALE = 50, 100, 101, 102


def program(kernel: Kernel, dimension: int) -> list[Step]:
    """Return a kernel as steps on a stack of blocks, or an empty list if the native loops have no closed form."""
    steps = _steps(kernel, dimension)
    if kernel.is_complex and len(steps) != 1:  # native complex arithmetic ends at the wave itself
        return []
    return steps


def _steps(kernel: Kernel, dimension: int) -> list[Step]:
    if isinstance(kernel, Sum | Product):
        return _combined(kernel, dimension)
    if isinstance(kernel, Scaled):
        inner = _steps(kernel.kernel, dimension)
        return [*inner, (_SCALE, [kernel.factor.real], [])] if inner and kernel.factor.imag == 0 else []
    if isinstance(kernel, Matern | SquaredExponential | RationalQuadratic):
        lengths = (
            kernel.length_scale
            if isinstance(kernel.length_scale, tuple)
            else (kernel.length_scale,) * dimension
        )
        if len(lengths) != dimension:
            raise ValueError(f"{len(lengths)} length scales do not fit points of {dimension} coordinates")
        weights = [length**-2 for length in lengths]
        if isinstance(kernel, SquaredExponential):
            return [(_GAUSS, [kernel.variance, 0.5], weights)]
        if isinstance(kernel, RationalQuadratic):
            return [(_RATIONAL_QUADRATIC, [kernel.variance, 0.5 / kernel.alpha, kernel.alpha], weights)]
        if kernel.nu in _MATERN:
            return [(_MATERN[kernel.nu], [kernel.variance, math.sqrt(2 * kernel.nu)], weights)]
    ones = [1.0] * dimension
    if isinstance(kernel, LaplaceSingleLayer) and dimension == 3:
        return [(_INVERSE, [1 / (4 * math.pi), 0.0], ones)]
    if isinstance(kernel, LaplaceSingleLayer) and dimension == 2:
        return [(_LOGARITHM, [-1 / (4 * math.pi), 0.0], ones)]
    if isinstance(kernel, Yukawa) and dimension == 3:
        return [(_SCREENED, [1 / (4 * math.pi), kernel.decay], ones)]
    if isinstance(kernel, Helmholtz) and dimension == 3:
        return [(_WAVE, [1 / (4 * math.pi), kernel.wavenumber.real, kernel.wavenumber.imag], ones)]
    return []


def _combined(kernel: Sum | Product, dimension: int) -> list[Step]:
    operation = _ADD if isinstance(kernel, Sum) else _MULTIPLY
    steps: list[Step] = []
    for number, term in enumerate(kernel.terms):
        inner = _steps(term, dimension)
        if not inner:
            return []
        steps += inner + ([(operation, [], [])] if number else [])
    return steps


def length_scales(kernel: Kernel) -> tuple[float, ...] | None:
    """Return a kernel's length scale in each coordinate, the smallest of its terms, or None for an isotropic kernel."""
    if isinstance(kernel, Scaled | Swapped):
        return length_scales(kernel.kernel)
    if isinstance(kernel, Sum | Product):
        found = [scales for scales in map(length_scales, kernel.terms) if scales is not None]
        return tuple(map(min, zip(*found, strict=True))) if found else None
    scale = getattr(kernel, "length_scale", None)
    return scale if isinstance(scale, tuple) else None


def kernel_matrix(
    kernel: Kernel,
    targets: ClusterTree,
    sources: ClusterTree,
    correction: csr_array | None = None,
    *,
    is_complex: bool = False,
) -> "_native.KernelMatrix":
    """Return entries k(targets[i], sources[j]), points in tree order, with a sparse matrix added.

    With `is_complex`, the entries of a real kernel are complex numbers, as a complex diagonal term needs.
    """
    widened = is_complex and not kernel.is_complex  # native loops write real kernels' entries as real numbers
    steps = [] if widened else program(kernel, targets.points.shape[1])

    def entries(rows: NDArray[np.int32], columns: NDArray[np.int32]) -> NDArray[Any]:
        block = kernel(torch.from_numpy(targets.points[rows]), torch.from_numpy(sources.points[columns]))
        return block.numpy()

    matrix = entry_matrix(entries, targets, sources, steps)
    if correction is not None:
        _correct(matrix, correction)
    return matrix


def entry_matrix(
    entries: Entries, targets: ClusterTree, sources: ClusterTree, steps: list[Step] | None = None
) -> "_native.KernelMatrix":
    """Return a matrix for native routines whose blocks are entries(rows, columns), indices in tree order."""

    def fill(rows: NDArray[np.int32], columns: NDArray[np.int32], out: NDArray[Any]) -> None:
        out[...] = entries(rows, columns).T

    transposed_targets = np.ascontiguousarray(targets.points.T)
    transposed_sources = transposed_targets if sources is targets else np.ascontiguousarray(sources.points.T)
    return _native.KernelMatrix(transposed_targets, transposed_sources, steps or [], fill)


def _correct(matrix: "_native.KernelMatrix", correction: csr_array) -> None:
    """Add a sparse matrix to all blocks."""
    ways = []
    for sparse in (correction, correction.T.tocsr()):
        ways += [
            sparse.indptr.astype(np.int64),
            sparse.indices.astype(np.int32),
            sparse.data.astype(np.complex128),
        ]
    matrix.correct(*ways)
