"""Threads of native routines: boxes are divided among them, products of matrices are too small to be."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    """Return SciPy's BLAS alone; looking for it takes milliseconds, so once."""
    import scipy.linalg.cython_blas  # noqa: F401 - loads it

    return ThreadpoolController().select(user_api="blas")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread for a while."""
    with _controller().limit(limits=1):
        yield


def n_threads() -> int:
    """Return among how many threads independent boxes are divided: torch's number, which OMP_NUM_THREADS sets."""
    return torch.get_num_threads()
