"""The product of an H2 matrix with vectors: natively on the CPU, in batches where vectors are on another device."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.hmatrix import _native
from pipeline.hmatrix.batched.product import BatchedProduct
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.rounding import wide_type
from pipeline.hmatrix.threads import n_threads, one_blas_thread
from pipeline.hmatrix.transpose import transpose
from pipeline.hmatrix.vectors import Vectors, apply

_SHARED = 4e6  # bytes of blocks from which threads gain more than their start costs

_Key = tuple[torch.device, bool, np.dtype[Any]]  # device, transposed, type of the product


@dataclass(frozen=True, eq=False)
class DeviceCopies:
    """Copies that products have made on other devices, for the next product there.

    Attributes:
        products: Matrices without their diagonal term, shared by all that differ in that term alone.
        diagonals: Diagonal terms.
    """

    products: dict[_Key, BatchedProduct] = field(default_factory=dict)
    diagonals: dict[torch.device, Tensor] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the copies out: another process, or a deep copy, makes its own."""
        return {"products": {}, "diagonals": {}}

    def for_another_diagonal(self) -> "DeviceCopies":
        """Return copies for the matrix with another diagonal term: all but the diagonals are shared."""
        return DeviceCopies(self.products)

    def release(self) -> None:
        """Free all copies, also those that are shared."""
        self.products.clear()
        self.diagonals.clear()

    def product(self, A: H2Form, device: torch.device, *, transposed: bool) -> BatchedProduct:
        """Return the product on a device, without the diagonal term; the copy is made once."""
        key = device, transposed, A.computed
        if key not in self.products:
            self.products[key] = BatchedProduct.of(transpose(A) if transposed else A, device)
        return self.products[key]

    def diagonal(self, A: H2Form, device: torch.device) -> Tensor | None:
        """Return the diagonal term on a device, or None where there is none."""
        if A.diagonal_term is None:
            return None
        if device not in self.diagonals:
            self.diagonals[device] = torch.from_numpy(A.diagonal_term.astype(A.computed)).to(device)
        return self.diagonals[device]


def product(
    A: H2Form, x: Vectors, *, transposed: bool = False, copies: DeviceCopies | None = None
) -> Vectors:
    """Return A x, or A^T x (never conjugated), for x of shape (n,) or (n, m) in the caller's order of the points.

    Args:
        A: The matrix.
        x: Vectors; the product is computed where they are.
        transposed: Whether to multiply by the transpose.
        copies: Copies on other devices, from earlier products and for later ones.

    Raises:
        ValueError: If A has no blocks.
    """
    A.require_blocks()
    if isinstance(x, Tensor) and x.device.type != "cpu":
        copies = copies or DeviceCopies()
        on_device = copies.product(A, x.device, transposed=transposed and not A.mirrored)
        return on_device(x, copies.diagonal(A, x.device), A.dtype)
    sides = (A.rows, A.columns) if transposed else (A.columns, A.rows)
    return apply(
        x,
        lambda flat, m: _native_product(A, flat, m, transposed=transposed),
        taken=sides[0].permutation,
        given=sides[1].permutation,
        computed=A.computed,
        dtype=A.dtype,
        what="the product",
    )


def _native_product(A: H2Form, flat: NDArray[Any], m: int, *, transposed: bool) -> NDArray[Any]:
    """Multiply m vectors, flat and row-major in tree order."""
    n_parts = n_threads() if A.near.n_bytes + A.far.n_bytes >= _SHARED else 1

    def blocks(flat: NDArray[Any]) -> NDArray[Any]:
        with one_blas_thread():
            return np.asarray(
                _native.product(
                    A.rows.native, A.columns.native, A.row_basis.native, A.column_basis.native,
                    A.near.native, A.far.native, A.mirrored, transposed, flat, m, n_parts, n_threads(),
                )
            )  # fmt: skip

    near_type = wide_type(A.near.values.dtype)
    if flat.dtype.kind == "c" and near_type.kind != "c":  # the diagonal alone is complex
        parts = [blocks(np.ascontiguousarray(part)) for part in (flat.real, flat.imag)]
        out = parts[0] + 1j * parts[1]
    else:
        out = blocks(flat.astype(near_type, copy=False))
    if A.diagonal_term is not None:
        out = out + (flat.reshape(-1, m) * A.diagonal_term[:, None]).reshape(-1)
    return out
