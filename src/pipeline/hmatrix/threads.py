"""One BLAS thread inside native routines: their products are too small to divide."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

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
