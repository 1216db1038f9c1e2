"""Threads of native routines: boxes are divided among them, products of matrices are too small to be."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    """Return SciPy's BLAS alone; looking for it takes milliseconds, so once."""
    import scipy.linalg.cython_blas  # noqa: F401 - loads it

    return ThreadpoolController().select(user_api="blas")


class _Held:
    """BLAS held to one thread, which is a setting of the process: by the first who asks, until the last has done."""

    def __init__(self) -> None:
        self._lock, self._holders = threading.Lock(), 0
        self._limits: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._holders == 0:
                self._limits = _controller().limit(limits=1)
            self._holders += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._limits.restore_original_limits()


_held = _Held()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread for a while, also where several Python threads ask."""
    with _held:
        yield


def n_threads() -> int:
    """Return among how many threads independent boxes are divided: torch's number, which OMP_NUM_THREADS sets."""
    return torch.get_num_threads()
