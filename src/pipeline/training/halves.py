"""Gradient noise, estimated from the difference between the gradients of two halves of a batch.

With gradients g1 and g2 of n1 and n2 independent samples, each sample's gradient having mean G and covariance S,
E|g1 - g2|^2 = tr(S) (1/n1 + 1/n2) and E|g|^2 = |G|^2 + tr(S) / (n1 + n2), where g is the mean over all samples. So
both tr(S) and |G|^2 are estimated without bias from every batch [1, appendix A.1], in any metric that does not depend
on the batch.

References:
    [1] McCandlish, Kaplan, Amodei et al., "An empirical model of large-batch training", 2018, arXiv:1812.06162.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Estimates from one batch, or their sums over several.

    Attributes:
        variance: Trace of the covariance of the gradients of single samples.
        square: Squared norm of the true gradient; an estimate may be negative.
    """

    variance: float = 0.0
    square: float = 0.0

    def __add__(self, other: "Noise") -> "Noise":
        return Noise(self.variance + other.variance, self.square + other.square)


@dataclass(frozen=True)
class Halves:
    """The difference between the gradients of the two halves of a batch.

    Attributes:
        sizes: Samples of the first half and of the second.
        difference: Gradient of the first half minus that of the second, by parameter.
    """

    sizes: tuple[int, int]
    difference: Mapping[str, Tensor]

    def noise(self, gradients: Mapping[str, Tensor]) -> Noise:
        """Estimate the noise in the Euclidean metric, from the gradient of the whole batch."""
        square = sum(float(gradient.double().square().sum()) for gradient in gradients.values())
        apart = sum(float(d.double().square().sum()) for d in self.difference.values())
        return self.noise_of_squares(square, apart)

    def noise_of_squares(self, square: float, apart: float) -> Noise:
        """Estimate the noise from the squared norms, in any metric, of the mean gradient and of the difference.

        The estimate is zero for a batch of one sample, one half of which is empty.
        """
        first, second = self.sizes
        if not first or not second:
            return Noise()
        variance = apart / (1 / first + 1 / second)
        return Noise(variance, square - variance / (first + second))
