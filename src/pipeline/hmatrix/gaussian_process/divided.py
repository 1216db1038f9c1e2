"""Values that are divided among processes: sums over all, one decision for all, and the data of all on process 0.

Without a communicator, every function does what a single process does.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.hmatrix.distributed.factor import DistributedFactorization
from pipeline.hmatrix.distributed.factor import factorize as factorize_divided
from pipeline.hmatrix.distributed.matrix import DistributedH2Matrix
from pipeline.hmatrix.factor import factorize
from pipeline.hmatrix.factorization import Factorization
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.matrix import H2Matrix
from pipeline.hmatrix.swap import exchange, gather, summed
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import together

Array = NDArray[np.float64]
Covariance = H2Matrix | DistributedH2Matrix
T = TypeVar("T")


def compressed(
    points: Array,
    kernel: Kernel,
    communicator: Communicator | None,
    *,
    diagonal: Array | float | None = None,
    tolerance: float,
) -> Covariance:
    """Compress the covariance of own points with those of all processes."""
    if communicator is None:
        return H2Matrix.from_kernel(points, kernel, diagonal=diagonal, tolerance=tolerance)
    return DistributedH2Matrix.from_kernel(
        points, kernel, communicator, diagonal=diagonal, tolerance=tolerance
    )


def without_blocks(A: Covariance) -> Covariance:
    """Return A without blocks and bases, which its factorization does not need."""
    if isinstance(A, H2Matrix):
        return H2Matrix(A.form.without_blocks())
    return replace(A, form=A.form.without_blocks())


def factorized_with(
    A: Covariance, kernel: Kernel, tolerance: float
) -> Factorization | DistributedFactorization:
    """Factorize the matrix of another kernel, with A's tree, lists and norm.

    Factorizations compress entries themselves. They are not checked, since a check might tighten only one of two that
    are to be compared.
    """
    if isinstance(A, H2Matrix):
        form = replace(A.form, kernel=kernel)
        return factorize(form, tolerance=tolerance, kind="cholesky", checked=False)
    own = replace(A.form, kernel=kernel)
    return factorize_divided(own, A.communicator, tolerance=tolerance, kind="cholesky", checked=False)


def total(communicator: Communicator | None, own: Array) -> Array:
    """Return the sum over the processes, bit-equal on all."""
    return own if communicator is None else np.asarray(summed(communicator, own))


def agreed(communicator: Communicator | None, own: Array) -> Array:
    """Return process 0's array: processors of different kinds may round differently, but must decide alike."""
    if communicator is None:
        return own
    told = torch.from_numpy(np.array(own, dtype=np.float64, order="C"))
    communicator.broadcast(told, 0)
    return np.asarray(told.numpy())


def all_rows(communicator: Communicator | None, own: Array) -> Array:
    """Return the rows of all processes, in their order."""
    return own if communicator is None else np.concatenate(gather(communicator, own))


def rows_on_first(communicator: Communicator, own: Array) -> Array:
    """Return the rows of all processes on process 0, in their order, and none on the others."""
    return np.concatenate([own[:0], *exchange(communicator, {0: own}).values()])


def rows_before(communicator: Communicator | None, n_own: int) -> int:
    """Return the number of rows of the processes before this one."""
    if communicator is None:
        return 0
    return int(all_rows(communicator, np.array([n_own]))[: communicator.rank].sum())


def root_mean_square(communicator: Communicator | None, own: Array) -> float:
    """Return the root mean square of the entries of all processes, 0 where there are none."""
    squares, count = total(communicator, np.array([(own**2).sum(), own.size]))
    return math.sqrt(squares / count) if count else 0.0


def from_first(communicator: Communicator | None, work: Callable[[], Array]) -> Array:
    """Let process 0 compute an array, and return it on all processes.

    Raises:
        Exception: The error of `work`, on all processes.
    """
    if communicator is None:
        return work()
    letters: dict[int, Array] = {}
    with together(communicator):
        if communicator.rank == 0:
            letters = dict.fromkeys(range(communicator.size), work())
    return exchange(communicator, letters)[0]


class kept(Generic[T]):
    """A property that is computed once, without cached_property's lock, for which collective work would wait."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> T:
        # Called only once: from then on, Python finds the value in the instance's dictionary.
        value = instance.__dict__[self.name] = self.compute(instance)
        return value


@contextmanager
def all_or_none(communicator: Communicator | None) -> Iterator[None]:
    """Run a block that is not collective, and raise on all processes if it fails on one."""
    if communicator is None:
        yield
        return
    with together(communicator):
        yield
