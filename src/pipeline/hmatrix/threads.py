"""Threads of native routines: boxes are divided among threads; products of matrices are too small to be divided."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    """Return the controller of the loaded BLAS libraries; it is kept, as finding them takes milliseconds."""
    import scipy.linalg.cython_blas  # noqa: F401 - loads it

    return ThreadpoolController().select(user_api="blas")


class SharedSetting:
    """A setting of the process, changed when the first holder enters and changed back when the last one leaves."""

    def __init__(self, change: Callable[[], Callable[[], object]]) -> None:
        """Take the function that changes the setting and returns the function that changes it back."""
        self._lock, self._holders, self._change = threading.Lock(), 0, change

    def __enter__(self) -> None:
        with self._lock:
            if self._holders == 0:
                self._change_back = self._change()
            self._holders += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._change_back()


_one_thread = SharedSetting(lambda: _controller().limit(limits=1).restore_original_limits)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread for a while, also where several Python threads ask."""
    with _one_thread:
        yield


def _hold_torch() -> Callable[[], object]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return lambda: torch.set_num_threads(before)


_one_torch_thread = SharedSetting(_hold_torch)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Hold torch to one thread for a while: many small operations are divided among Python's threads instead."""
    with _one_torch_thread:
        yield


def n_threads() -> int:
    """Return the number of threads that share independent boxes: torch's number, which OMP_NUM_THREADS sets."""
    return torch.get_num_threads()
