"""Where the entries and bases of a kernel matrix come from: box by box on the CPU, or in batches from a device."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.hmatrix import _native
from pipeline.hmatrix.batched.build import DeviceSource
from pipeline.hmatrix.batched.kernel import DeviceKernel
from pipeline.hmatrix.blocks import Blocks, PairPlaces, evaluate_blocks
from pipeline.hmatrix.cluster import ClusterTree, Ints
from pipeline.hmatrix.entries import kernel_matrix
from pipeline.hmatrix.inputs import torch_dtype
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.skeleton import Basis, WantedBasis, nested_basis
from pipeline.hmatrix.threads import n_threads

_PIECES = 128  # pieces of a row, whatever the number of threads: native/build.cpp deals them out by sixteen


class Source(Protocol):
    """Entries and bases of a kernel matrix; points are numbered by their places in tree order."""

    def blocks(
        self, rows: PairPlaces, columns: PairPlaces, pairs: tuple[Ints, Ints], stored: np.dtype[Any]
    ) -> Blocks:
        """Return the blocks of pairs of lists of places."""

    def basis(self, wanted: WantedBasis) -> Basis:
        """Return nested bases of the columns or of the rows."""

    def exact_rows(self, chosen: NDArray[np.int32]) -> NDArray[Any]:
        """Return rows, shape (len(chosen), columns)."""


@dataclass(frozen=True, eq=False)
class NativeSource:
    """Entries and bases box by box on the CPU."""

    matrix: "_native.KernelMatrix"
    rows: ClusterTree
    columns: ClusterTree
    computed: np.dtype[Any]

    def blocks(
        self, rows: PairPlaces, columns: PairPlaces, pairs: tuple[Ints, Ints], stored: np.dtype[Any]
    ) -> Blocks:
        return evaluate_blocks(self.matrix, rows, columns, pairs, stored)

    def basis(self, wanted: WantedBasis) -> Basis:
        trees = (self.rows, self.columns) if wanted.transposed else (self.columns, self.rows)
        return nested_basis(self.matrix, *trees, wanted, self.computed)

    def exact_rows(self, chosen: NDArray[np.int32]) -> NDArray[Any]:
        evaluate = getattr(_native, f"evaluate_blocks_{self.computed.name}")
        n = self.columns.n_points
        n_pieces = 1 if self.matrix.calls_python else _PIECES  # threads share them
        pieces = np.arange(n_pieces + 1, dtype=np.int64) * n // n_pieces
        first, second = np.zeros(n_pieces, np.int32), np.arange(n_pieces, dtype=np.int32)
        whole = np.arange(n, dtype=np.int32)
        flat = evaluate(
            self.matrix, np.array([0, len(chosen)]), chosen, pieces, whole, first, second, n_threads()
        )
        return np.asarray(flat).reshape(n, len(chosen)).T


def source_of(
    kernel: Kernel,
    rows: ClusterTree,
    columns: ClusterTree,
    computed: np.dtype[Any],
    device: torch.device | None,
    correction: csr_array | None = None,
) -> Source:
    """Return the source of a kernel matrix's entries and bases.

    Args:
        kernel: The kernel.
        rows, columns: Trees of its points.
        computed: Type of the entries, of double precision.
        device: The device that computes batches; None for box by box on the CPU.
        correction: Sparse matrix to add, in tree order. Only the CPU's routines support it.
    """
    if device is None or correction is not None:
        return NativeSource(kernel_matrix(kernel, rows, columns, correction), rows, columns, computed)
    return DeviceSource(DeviceKernel(kernel, rows, columns, torch_dtype(computed), device))
