"""Covariance functions of stationary random fields: positive definite in any dimension.

Points on a globe are unit 3-vectors: their straight-line (chordal) distance keeps every function here a valid
covariance, which the arc length would not, and `length_scale` is then in units of the globe's radius.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from pipeline.hmatrix.kernels.base import Kernel, require_positive
from pipeline.hmatrix.kernels.distances import LengthScale, distances, squared_distances
from pipeline.options import SMALLEST, Positive


@dataclass(frozen=True)
class Stationary(Kernel):
    """A covariance variance · f(r) of the scaled distance r, with f(0) = 1.

    Attributes:
        length_scale: Length in the unit of the points, one for all coordinates or one for each; for embeddings in
            units of the median distance between them.
        variance: k(x, x).
    """

    positive_definite: ClassVar[bool] = True

    length_scale: LengthScale = 1.0
    variance: Positive = 1.0

    def __post_init__(self) -> None:
        given: Any = self.length_scale
        if isinstance(given, list | np.ndarray):  # JSON and YAML give lists
            object.__setattr__(self, "length_scale", tuple(np.asarray(given).tolist()))
        require_positive(length_scale=self.length_scale, variance=self.variance)

    def stretched(self, factor: float) -> Self:
        """Return the same covariance with longer length scales."""
        scales = self.length_scale
        longer = tuple(factor * scale for scale in scales) if isinstance(scales, tuple) else factor * scales
        return replace(self, length_scale=longer)

    def _scaled(self, block: Tensor) -> Tensor:
        return block if self.variance == 1 else block.mul_(self.variance)


_LARGEST_ORDER = 50  # up to here K_nu overflows only where the covariance is 1 to double precision


@dataclass(frozen=True)
class Matern(Stationary):
    """The Matérn covariance of smoothness nu [1, equation 4.14].

    f(r) = 2^(1-nu)/Gamma(nu) z^nu K_nu(z), z = sqrt(2 nu) r: exp(-r) for nu = 1/2; closed forms for 3/2 and
    5/2 too. Any other nu evaluates the Bessel function on the CPU, some fifty times slower.

    Attributes:
        nu: Smoothness.

    References:
        [1] Rasmussen, Williams, "Gaussian Processes for Machine Learning", MIT Press 2006.
    """

    name: ClassVar[str] = "matern"
    nu: Annotated[float, Interval(ge=SMALLEST, le=_LARGEST_ORDER)] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(nu=self.nu)
        if self.nu > _LARGEST_ORDER:
            raise ValueError(
                f"nu {self.nu} is above {_LARGEST_ORDER}: take its limit, the squared exponential"
            )

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        z = distances(targets, sources, self.length_scale)
        if self.nu == 0.5:
            return self._scaled(z.neg_().exp_())
        z.mul_(math.sqrt(2 * self.nu))
        if self.nu == 1.5:
            return self._scaled((z + 1).mul_(z.neg_().exp_()))
        if self.nu == 2.5:
            return self._scaled((z.square().div_(3).add_(z).add_(1)).mul_(z.neg_().exp_()))
        return self._scaled(_matern_of_any_order(z, self.nu))


def _matern_of_any_order(z: Tensor, nu: float) -> Tensor:
    """Return 2^(1-nu)/Gamma(nu) z^nu K_nu(z), through logarithms so that neither factor overflows."""
    from scipy.special import gammaln, kve  # slow to import, and few kernels need it

    argument = z.detach().to("cpu", torch.float64).numpy()
    tiny = np.finfo(np.float64).tiny
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        # e^z K_nu(z); infinite for z near 0, where the limit is 1
        bessel = kve(nu, np.maximum(argument, tiny))
        logarithm = (
            (1 - nu) * math.log(2)
            - gammaln(nu)
            + nu * np.log(np.maximum(argument, tiny))
            - argument
            + np.log(np.maximum(bessel, tiny))
        )
        value = np.where(np.isfinite(bessel) & (argument > 0), np.exp(np.minimum(logarithm, 0.0)), 1.0)
    return torch.from_numpy(value).to(z.device, z.dtype)


@dataclass(frozen=True)
class SquaredExponential(Stationary):
    """The Gaussian covariance f(r) = exp(-r²/2): smooth fields, features of a network."""

    name: ClassVar[str] = "squared_exponential"

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        squares = squared_distances(targets, sources, self.length_scale)
        return self._scaled(squares.mul_(-0.5).exp_())


@dataclass(frozen=True)
class RationalQuadratic(Stationary):
    """The covariance f(r) = (1 + r²/(2 alpha))^-alpha: a mixture of many Gaussians, long-tailed.

    Attributes:
        alpha: Weight of the tail; the larger, the nearer to a single Gaussian.
    """

    name: ClassVar[str] = "rational_quadratic"
    alpha: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(alpha=self.alpha)

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        squares = squared_distances(targets, sources, self.length_scale)
        return self._scaled(squares.div_(2 * self.alpha).log1p_().mul_(-self.alpha).exp_())
