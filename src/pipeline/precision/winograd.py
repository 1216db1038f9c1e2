"""Winograd convolution: its matrices, and how far its results may be from the exact ones.

F(m x m, 3 x 3) computes a tile of m x m outputs from n x n inputs d, n = m + 2, and the kernels g by

    y = A^T [sum over channels of (G g G^T) * (B^T d B)] A

with one multiplication per point, n^2 for m^2 outputs instead of 9 m^2 [1]. Products of large numbers cancel in A^T,
which costs accuracy: the more, the larger m and the powers of the points are. With the points 0, +-sqrt(1/2),
+-sqrt(2) and infinity for m = 4 the loss is about half of that with 0, +-1, +-2 [2].

An input that is not finite reaches more results than those whose windows hold it, namely at most all of the tiles that
read it; and an infinity comes out as NaN there where two of its multiples are subtracted. Between layers in binary16
there are no infinities, since these saturate, so this concerns inputs and activations in binary32.

References:
    [1] Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016.
    [2] Barabasz, Anderson, Soodhalter, Gregg, "Error analysis and improving the accuracy of Winograd convolution for
        deep neural networks", ACM Transactions on Mathematical Software 2020.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.precision.error import TINY_HALF, UNIT_BRAIN, UNIT_HALF, UNIT_SINGLE

POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0))}


def matrices(m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give A^T (m, m + 2), G (m + 2, 3) and B^T (m + 2, m + 2) in float64, from the points by interpolation.

    Row j of B^T holds the coefficients of the product of (x - p) over all finite points but the j-th, that of G the
    powers of the point over that product's value there; infinity takes the leading coefficients.
    """
    points = POINTS[m]
    n = m + 2
    at, g, bt = torch.zeros(m, n).double(), torch.zeros(n, 3).double(), torch.zeros(n, n).double()
    for j, point in enumerate(points):
        others = [p for p in points if p != point]
        value = math.prod(point - p for p in others)
        sign = (
            math.copysign(1.0, value) if point == 0 else 1.0
        )  # as the routines have it: no effect on the product
        at[:, j] = torch.tensor([point**i for i in range(m)], dtype=torch.float64)
        g[j] = torch.tensor([point**i for i in range(3)], dtype=torch.float64) * sign / value
        bt[j, : n - 1] = sign * _coefficients(others)
    at[-1, -1] = g[-1, -1] = 1.0
    bt[-1] = _coefficients(list(points))
    return at, g, bt


def _coefficients(roots: list[float]) -> Tensor:
    """The product of (x - r) over the roots, lowest power first."""
    polynomial = torch.ones(1).double()
    for root in roots:
        shifted = functional.pad(polynomial, (1, 0))
        polynomial = shifted - root * functional.pad(polynomial, (0, 1))
    return polynomial


def winograd_bound(
    weight: Tensor,
    x: Tensor,
    m: int,
    padding: tuple[int, int] = (1, 1),
    *,
    added: Tensor | None = None,
    weights: Literal["fp16", "bf16", "fp32"],
    half_output: bool,
) -> Tensor:
    """Bound the error of the Winograd routines, given the weights (scale included) and inputs as they are stored.

    The transformed weights are rounded once, to u_w = 2^-11 of themselves or by at most 2^-38 of the largest of their
    output (binary16, whose channels are brought to [2^13, 2^14), rounds subnormal numbers by at most 2^-25); binary32
    ones to u_w = 2^-24. The bfloat16 routine rounds both factors: the weights to binary32 and then by 2^-8, the
    transformed inputs by u_d = 2^-8, which is 0 for the others (numbers below 2^-126 count as zero, and are not
    bounded here). A one-dimensional transform rounds each term at most four times, rounded constants included,
    and there are two before and two after a sum over C channels; bias and residual round twice more. So, with
    gamma_n = n u / (1 - n u), u = 2^-24 and absolute values taken of every matrix,

        |y - exact| <= ((1 + u_w)(1 + u_d)(1 + gamma_{C+19}) - 1) |A^T| [sum (|G| |g| |G^T|) * (|B^T| |d| |B|)] |A|

    plus gamma_2 of what is added, plus, for binary16 results, rounding those.

    Args:
        weight: Shape (outputs, channels, 3, 3).
        x: Shape (batch, channels, rows, columns).
        m: 2 or 4.
        padding: Zeros around the rows and columns.
        added: |bias| + |residual|, broadcast to the output's shape; None for neither.
        weights: How the transformed weights are stored.
        half_output: Whether the results are.

    Returns:
        Shape (batch, outputs, rows, columns).
    """
    at, g, bt = (matrix.abs() for matrix in matrices(m))
    rows, columns = (size + 2 * pad - 2 for size, pad in zip(x.shape[2:], padding, strict=True))
    below, right = -rows % m, -columns % m
    image = functional.pad(x.double().abs(), (padding[1], padding[1] + right, padding[0], padding[0] + below))
    tiles = bt @ image.unfold(2, m + 2, m).unfold(3, m + 2, m) @ bt.T
    kernels = g @ weight.double().abs() @ g.T
    if weights == "fp16":
        kernels = kernels + 2.0**-27 * kernels.amax(dim=(1, 2, 3), keepdim=True)
    products = torch.einsum("ocij,bcrsij->borsij", kernels, tiles)
    magnitude = (at @ products @ at.T).permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)
    magnitude = magnitude[:, :, :rows, :columns]
    n = (weight.shape[1] + 19) * UNIT_SINGLE
    rounded = {"fp16": 1 + UNIT_HALF, "bf16": (1 + UNIT_BRAIN) ** 2, "fp32": 1 + UNIT_SINGLE}[weights]
    error = magnitude * (rounded / (1 - n) - 1)
    if added is not None:
        magnitude = magnitude + added
        error = error + 3 * UNIT_SINGLE * added
    return error + UNIT_HALF * (magnitude + error) + TINY_HALF if half_output else error
