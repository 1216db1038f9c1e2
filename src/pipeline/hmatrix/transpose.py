"""Transposes and multiples: the same arrays, reordered or scaled."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.kernels import Swapped
from pipeline.hmatrix.skeleton import Basis


def transpose(A: H2Form) -> H2Form:
    """Return A^T, never conjugated; bases change sides and blocks are transposed one by one."""
    if A.mirrored:
        return A
    kernel = A.kernel.kernel if isinstance(A.kernel, Swapped) else A.kernel
    if kernel is not None and not kernel.symmetric and kernel is A.kernel:
        kernel = Swapped(kernel)
    return replace(
        A,
        geometry=A.geometry.transposed(),
        row_basis=A.column_basis,
        column_basis=A.row_basis,
        near=_transposed(A.near, A.rows.stop - A.rows.start),
        far=_transposed(A.far, A.row_basis.rank),
        kernel=kernel,
        correction=None if A.correction is None else A.correction.T.tocsr(),
    )


def scaled(A: H2Form, factor: complex) -> H2Form:
    """Return factor · A.

    Raises:
        ValueError: If the factor is not finite, or the type of the entries does not hold their multiples.
    """
    factor = as_factor(factor)
    column_basis = widened(A.column_basis, factor)
    return replace(
        A,
        near=times(A.near, factor),
        far=times(A.far, factor),
        row_basis=column_basis if A.row_basis is A.column_basis else widened(A.row_basis, factor),
        column_basis=column_basis,
        diagonal_term=None if A.diagonal_term is None else factor * A.diagonal_term,
        kernel=None if A.kernel is None else factor * A.kernel,
        correction=None if A.correction is None else factor * A.correction,
        norm=abs(factor) * A.norm,
        dtype=type_of_multiple(A.dtype, factor),
    )


def as_factor(factor: complex) -> complex:
    """Return a finite factor as a Python number, real if its imaginary part is 0."""
    if not np.isfinite(factor):
        raise ValueError(f"a matrix can be multiplied by finite factors, not {factor}")
    factor = np.asarray(factor).item()
    return factor.real if isinstance(factor, complex) and factor.imag == 0 else factor


def type_of_multiple(dtype: np.dtype[Any], factor: complex) -> np.dtype[Any]:
    """Return a type of the same precision that holds the factor's multiples."""
    if not isinstance(factor, complex) or dtype.kind == "c":
        return dtype
    return np.dtype(np.complex64 if dtype.itemsize == 4 else np.complex128)


def times(blocks: Blocks, factor: complex) -> Blocks:
    """Return blocks times a factor.

    Raises:
        ValueError: If the type of the entries does not hold their multiples.
    """
    old = blocks.values
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values = (factor * old).astype(type_of_multiple(old.dtype, factor))
        size, before = (float(np.abs(part).max(initial=0.0)) for part in (values, old))
    limits = np.finfo(values.dtype)
    lost = factor != 0 and before > 0 and size < limits.tiny / limits.eps
    if not np.isfinite(size) or lost:
        why = "small" if lost else "large"
        raise ValueError(
            f"entries up to {before:.1e} times {factor:g} are too {why} for {values.dtype}, in which blocks are kept; "
            "multiply vectors instead"
        )
    return replace(blocks, values=values)


def widened(basis: Basis, factor: complex) -> Basis:
    """Return a basis in the type of the factor's multiples."""
    dtype = type_of_multiple(basis.values.dtype, factor)
    return basis if dtype == basis.values.dtype else replace(basis, values=basis.values.astype(dtype))


def _transposed(blocks: Blocks, heights: NDArray[Any]) -> Blocks:
    """Return the blocks of swapped pairs, each transposed; `heights` are the rows of each first box."""
    values = np.empty_like(blocks.values)
    for p, box in enumerate(blocks.first):
        part = slice(blocks.start[p], blocks.start[p + 1])
        height = int(heights[box])
        if height:
            values[part] = blocks.values[part].reshape(-1, height).T.ravel()
    return Blocks(blocks.second, blocks.first, blocks.start, values)
