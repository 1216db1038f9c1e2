"""Hierarchical (H2) matrices: kernel matrices in linear storage, with products, factorizations and solves."""

from importlib import import_module
from typing import TYPE_CHECKING

from pipeline.hmatrix import kernels
from pipeline.hmatrix.admissibility import Strong, Weak
from pipeline.hmatrix.factorization import Factorization
from pipeline.hmatrix.matrix import H2Matrix

__all__ = [
    "DistributedH2Matrix",
    "Factorization",
    "FitWarning",
    "GaussianProcess",
    "H2Matrix",
    "Strong",
    "Weak",
    "kernels",
]

if TYPE_CHECKING:
    from pipeline.hmatrix import boundary_elements, distributed, gaussian_process  # noqa: F401
    from pipeline.hmatrix.distributed import DistributedH2Matrix
    from pipeline.hmatrix.gaussian_process import FitWarning, GaussianProcess
else:
    # These stand on the matrix, and most programs need none of them: each is imported when it is first asked for.
    _WHERE = {
        "DistributedH2Matrix": "distributed",
        "FitWarning": "gaussian_process",
        "GaussianProcess": "gaussian_process",
    }
    _PACKAGES = {"boundary_elements", "distributed", "gaussian_process"}

    def __getattr__(name):
        if name in _PACKAGES:
            return import_module(f"{__name__}.{name}")
        if name in _WHERE:
            return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *_WHERE, *_PACKAGES})
