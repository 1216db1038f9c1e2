"""Fundamental solutions of elliptic equations in the plane and in space: the kernels of boundary elements.

All are singular at r = 0, where they are given as 0: the true self term of an element depends on its shape,
and callers who know it add it to the diagonal.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.hmatrix.kernels.base import Kernel, require_positive
from pipeline.hmatrix.kernels.distances import distances, squared_distances
from pipeline.options import Positive


def _inverse_distances(targets: Tensor, sources: Tensor) -> Tensor:
    """Return 1/r, and 0 where r = 0."""
    squares = squared_distances(targets, sources)
    coincident = squares == 0
    return squares.rsqrt_().masked_fill_(coincident, 0.0)


def _require_plane_or_space(kernel: Kernel, points: Tensor, instead: str = "") -> int:
    """Return the dimension, which must be 2 or 3."""
    dimension = points.shape[-1]
    if dimension not in (2, 3):
        raise ValueError(
            f"{type(kernel).__name__} is defined in 2 and 3 dimensions, not in {dimension}"
            + (instead if dimension == 1 else "")
        )
    return dimension


@dataclass(frozen=True)
class LaplaceSingleLayer(Kernel):
    """The potential of a point charge: 1/(4 pi r) in space, -log(r)/(2 pi) in the plane.

    In the plane it is positive definite only on sets of logarithmic capacity below 1, such as sets within a
    unit disc.
    """

    name: ClassVar[str] = "laplace_single_layer"
    positive_definite: ClassVar[bool] = True
    singular: ClassVar[bool] = True

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        if _require_plane_or_space(self, targets) == 3:
            return _inverse_distances(targets, sources).div_(4 * math.pi)
        squares = squared_distances(targets, sources)
        coincident = squares == 0
        return squares.log_().div_(-4 * math.pi).masked_fill_(coincident, 0.0)


@dataclass(frozen=True)
class Yukawa(Kernel):
    """The screened potential: exp(-decay r)/(4 pi r) in space, K0(decay r)/(2 pi) in the plane [1, section 9.6].

    The Bessel function of the plane is evaluated block by block, slower than the native loops of space.

    Attributes:
        decay: Inverse of the distance over which the potential is screened.

    References:
        [1] Abramowitz, Stegun, "Handbook of Mathematical Functions", 1964.
    """

    name: ClassVar[str] = "yukawa"
    positive_definite: ClassVar[bool] = True
    singular: ClassVar[bool] = True
    decay: Positive = 1.0

    def __post_init__(self) -> None:
        require_positive(decay=self.decay)

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        instead = f"; on a line it is Matern(length_scale={1 / self.decay:g}, variance={0.5 / self.decay:g})"
        if _require_plane_or_space(self, targets, instead) == 3:
            inverse = _inverse_distances(targets, sources)
            screening = torch.where(inverse > 0, -self.decay / inverse, 0.0).exp_()
            return inverse.mul_(screening).div_(4 * math.pi)
        r = distances(targets, sources)
        value: Tensor = torch.special.modified_bessel_k0(r * self.decay)
        return value.div_(2 * math.pi).masked_fill_(r == 0, 0.0)


@dataclass(frozen=True)
class Helmholtz(Kernel):
    """The outgoing wave: exp(i k r)/(4 pi r) in space, i H0(k r)/4 in the plane, complex symmetric, not Hermitian.

    The wavenumber k may be complex, k = a + b i with b > 0: the wave then decays as exp(-b r). H0 is the Hankel
    function of the first kind [1, section 9.1], evaluated block by block, slower than the native loops of space.
    Ranks grow with the number of wavelengths across a box, so compression pays while boxes are a few wavelengths wide.

    Attributes:
        wavenumber: 2 pi over the wavelength, in the unit of the points.

    References:
        [1] Abramowitz, Stegun, "Handbook of Mathematical Functions", 1964.
    """

    name: ClassVar[str] = "helmholtz"
    is_complex: ClassVar[bool] = True
    singular: ClassVar[bool] = True
    wavenumber: complex = 1.0

    def __post_init__(self) -> None:
        given: Any = self.wavenumber
        if isinstance(given, dict) and set(given) == {"real", "imag"}:  # as JSON gives complex numbers
            given = complex(given["real"], given["imag"])
        if isinstance(given, np.number):
            given = given.item()
        if isinstance(given, complex):
            if not (np.isfinite(given) and given.real >= 0 and given.imag >= 0 and given != 0):
                raise ValueError(
                    f"wavenumber must be finite with real and imaginary parts >= 0, not {given}: exp(i k r) would come "
                    "in from infinity, or grow"
                )
            given = given if given.imag else given.real
        else:
            require_positive(wavenumber=given)
        object.__setattr__(self, "wavenumber", given)

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        dimension = _require_plane_or_space(self, targets)
        r = distances(targets, sources)
        coincident = r == 0
        k = complex(self.wavenumber)
        if dimension == 3:
            amplitude = (1 / (4 * math.pi * r)).masked_fill_(coincident, 0.0)
            if k.imag:
                amplitude.mul_((r * -k.imag).exp_())
            return torch.polar(amplitude, r.mul_(k.real))
        # SciPy's functions, on the CPU: torch's J0 and Y0 are wrong in the seventh digit. They are slow to import.
        from scipy.special import hankel1, j0, y0

        host = r.masked_fill_(coincident, 1.0).detach().to("cpu", torch.float64).numpy()
        wave = (
            0.25j * hankel1(0, k * host) if k.imag else 0.25j * j0(k.real * host) - 0.25 * y0(k.real * host)
        )
        return (
            torch.from_numpy(np.asarray(wave))
            .to(r.device, r.dtype.to_complex())
            .masked_fill_(coincident, 0.0)
        )
