"""Kernels that are positive definite only on coefficients orthogonal to polynomials."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pipeline.hmatrix.kernels.base import Kernel, require_positive
from pipeline.hmatrix.kernels.distances import squared_distances
from pipeline.options import Positive


@dataclass(frozen=True)
class ThinPlate(Kernel):
    """The thin-plate spline: r³ on a line, r² log r in the plane, -r in space, times a variance [1, section 2.4].

    Interpolants with it bend least. It is no covariance by itself: sums of c_i c_j k(x_i, x_j) are positive where the
    coefficients c are orthogonal to linear functions, so that a Gaussian process has to have a linear trend at least.

    Attributes:
        variance: Factor; its unit is that of the values squared over r³, r² or r.

    References:
        [1] Wahba, "Spline Models for Observational Data", SIAM 1990.
    """

    name: ClassVar[str] = "thin_plate"
    conditional_degree: ClassVar[int] = 1
    variance: Positive = 1.0

    def __post_init__(self) -> None:
        require_positive(variance=self.variance)

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        dimension = targets.shape[-1]
        squares = squared_distances(targets, sources)
        if dimension == 1:
            return squares.pow_(1.5).mul_(self.variance)
        if dimension == 2:
            coincident = squares == 0
            logarithm = squares.log().masked_fill_(coincident, 0.0)
            return squares.mul_(logarithm).mul_(0.5 * self.variance)
        if dimension == 3:
            return squares.sqrt_().mul_(-self.variance)
        raise ValueError(f"ThinPlate is defined in 1 to 3 dimensions, not in {dimension}")
