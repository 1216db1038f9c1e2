"""Hierarchical (H2) matrices: kernel matrices in linear storage, with products, factorizations and solves."""

from pipeline.hmatrix import kernels
from pipeline.hmatrix.admissibility import Strong, Weak
from pipeline.hmatrix.distributed import DistributedH2Matrix
from pipeline.hmatrix.factorization import Factorization
from pipeline.hmatrix.gaussian_process import FitWarning, GaussianProcess
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
