"""Normal derivatives of fundamental solutions: the kernels of double layers."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.hmatrix.kernels import Helmholtz, Kernel, LaplaceSingleLayer, Yukawa
from pipeline.hmatrix.kernels.distances import squared_distances

FundamentalSolution = LaplaceSingleLayer | Yukawa | Helmholtz


def wavenumber_of(kernel: FundamentalSolution) -> complex:
    """Return k of a fundamental solution exp(i k r)/(4 pi r): 0 for Laplace, i decay for Yukawa."""
    if isinstance(kernel, Helmholtz):
        return complex(kernel.wavenumber)
    return 1j * kernel.decay if isinstance(kernel, Yukawa) else 0j


def radial(squares: Tensor, wavenumber: complex) -> tuple[Tensor, Tensor]:
    """Return G = exp(i k r)/(4 pi r) and F = (1 - i k r) exp(i k r)/(4 pi r³) of squared distances; 0 where r = 0.

    The gradient of G with respect to y is F (x - y). Both are real unless k has a real part.
    """
    inverse = squares.rsqrt().masked_fill(squares == 0, 0.0)
    r = squares * inverse
    G: Tensor = inverse / (4 * math.pi)
    if wavenumber == 0:
        return G, G * inverse.square()
    if wavenumber.real == 0:
        G = G * torch.exp(-wavenumber.imag * r)
        return G, G * (1 + wavenumber.imag * r) * inverse.square()
    G = torch.polar(G * torch.exp(-wavenumber.imag * r), wavenumber.real * r)
    return G, G * (1 - 1j * wavenumber * r) * inverse.square()


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products of vectors with three coordinates, which are the last dimension.

    But for the sign of zero, the numbers are those of (a * b).sum(dim=-1), which takes several times as long along so
    short a dimension.
    """
    x, y, z = (p * q for p, q in zip(a.unbind(dim=-1), b.unbind(dim=-1), strict=True))
    return x + y + z


@dataclass(frozen=True)
class NormalDerivative(Kernel):
    """The derivative of a fundamental solution along the normal n at y: F (x - y) n, with F of `radial`.

    Points have six coordinates: place, and normal times `scale`. If the scale is small beside the distances of points,
    trees divide points by their places.

    Attributes:
        kernel: The fundamental solution.
        scale: What unit normals are multiplied by.
        adjoint: Whether the kernel is transposed: the derivative along the normal at x.
    """

    name: ClassVar[str] = "normal_derivative"
    symmetric: ClassVar[bool] = False
    singular: ClassVar[bool] = True
    kernel: FundamentalSolution
    scale: float = 1.0
    adjoint: bool = False

    @property
    def is_complex(self) -> bool:  # type: ignore[override]
        return self.kernel.is_complex

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        if self.adjoint:
            return replace(self, adjoint=False).block(sources, targets).mT
        x, y, n = targets[..., :3], sources[..., :3], sources[..., 3:] / self.scale
        _, F = radial(squared_distances(x, y), wavenumber_of(self.kernel))
        return F * (x @ n.mT - (y * n).sum(dim=-1)[..., None, :])
