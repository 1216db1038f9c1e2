"""Fundamental solutions of elliptic equations: the kernels of boundary elements.

All are singular at r = 0, where they are given as 0: the true self term of an element is a matter of its
shape and is added to the diagonal by who knows it.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.hmatrix.kernels.base import Kernel, require_positive
from pipeline.hmatrix.kernels.distances import distances, squared_distances


def _inverse_distances(targets: Tensor, sources: Tensor) -> Tensor:
    """Return 1/r, and 0 where r = 0."""
    squares = squared_distances(targets, sources)
    coincident = squares == 0
    return squares.rsqrt_().masked_fill_(coincident, 0.0)


@dataclass(frozen=True)
class LaplaceSingleLayer(Kernel):
    """The potential of a point charge: 1/(4 pi r) in space, -log(r)/(2 pi) in the plane.

    In the plane it is positive definite on sets of logarithmic capacity below 1 only, such as within a unit
    disc.
    """

    name: ClassVar[str] = "laplace_single_layer"
    positive_definite: ClassVar[bool] = True
    singular: ClassVar[bool] = True

    def __call__(self, targets: Tensor, sources: Tensor) -> Tensor:
        dimension = targets.shape[-1]
        if dimension == 3:
            return _inverse_distances(targets, sources).div_(4 * math.pi)
        if dimension == 2:
            squares = squared_distances(targets, sources)
            coincident = squares == 0
            return squares.log_().div_(-4 * math.pi).masked_fill_(coincident, 0.0)
        raise ValueError(
            f"the Laplace single layer is given in the plane and in space, not in {dimension} dimensions"
        )


@dataclass(frozen=True)
class Yukawa(Kernel):
    """The screened potential exp(-decay r)/(4 pi r)."""

    name: ClassVar[str] = "yukawa"
    positive_definite: ClassVar[bool] = True
    singular: ClassVar[bool] = True
    decay: float = 1.0

    def __post_init__(self) -> None:
        require_positive(decay=self.decay)

    def __call__(self, targets: Tensor, sources: Tensor) -> Tensor:
        inverse = _inverse_distances(targets, sources)
        screening = torch.where(inverse > 0, -self.decay / inverse, 0.0).exp_()
        return inverse.mul_(screening).div_(4 * math.pi)


@dataclass(frozen=True)
class Helmholtz(Kernel):
    """The outgoing wave exp(i wavenumber r)/(4 pi r): complex symmetric, not Hermitian.

    Ranks grow with the number of wavelengths across a box, so compression pays while boxes are a few
    wavelengths wide.
    """

    name: ClassVar[str] = "helmholtz"
    is_complex: ClassVar[bool] = True
    singular: ClassVar[bool] = True
    wavenumber: float = 1.0

    def __post_init__(self) -> None:
        require_positive(wavenumber=self.wavenumber)

    def __call__(self, targets: Tensor, sources: Tensor) -> Tensor:
        r = distances(targets, sources)
        amplitude = torch.where(r > 0, 1 / (4 * math.pi * r), 0.0)
        return torch.polar(amplitude, r.mul_(self.wavenumber))
