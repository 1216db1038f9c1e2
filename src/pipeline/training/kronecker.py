"""The mathematics of K-FAC: Kronecker factors, their damping, their inverses.

The Fisher matrix of one layer with weights W (n_outputs, n_inputs) is approximated by A ⊗ G, where A is the
second moment of the layer's inputs (with a one appended for the bias) and G that of the gradients at its
outputs, both of single samples. Then the natural gradient of W is G^-1 (dL/dW) A^-1.

Layout: all statistics are computed from *columns*, matrices (n_features, n_samples * n_positions). A
convolution is a linear layer applied at every position, so its columns are image patches [2]; A averages
over positions and G sums over them.

References:
    [1] Martens, Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature",
        ICML 2015.
    [2] Grosse, Martens, "A Kronecker-factored approximate Fisher matrix for convolution layers", ICML 2016.
"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional


def linear_columns(x: Tensor) -> Tensor:
    """View inputs or output gradients of a linear layer, shape (n, ..., n_features), as columns."""
    return x.reshape(-1, x.shape[-1]).T


def convolution_gradient_columns(gradient: Tensor) -> Tensor:
    """Rearrange output gradients of a convolution, shape (n, c, h, w), as columns (c, n * h * w)."""
    return gradient.transpose(0, 1).reshape(gradient.shape[1], -1)


def convolution_input_columns(
    x: Tensor,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Cut images into the patches that a convolution sees.

    Does what `torch.nn.functional.unfold` does, but with patches as columns and positions last, in one
    strided copy: the matrix product that follows then reads contiguous rows, which halves the time of both.

    Args:
        x: Shape (n, c, h, w).

    Returns:
        Shape (c * kernel height * kernel width, n * output height * output width).
    """
    padded = functional.pad(x, (padding[1], padding[1], padding[0], padding[0])).contiguous()
    n, c = padded.shape[:2]
    sample, channel, row, column = padded.stride()
    height, width = (
        (padded.shape[2 + i] - dilation[i] * (kernel_size[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    patches = padded.as_strided(
        (c, *kernel_size, n, height, width),
        (channel, row * dilation[0], column * dilation[1], sample, row * stride[0], column * stride[1]),
    )
    return patches.reshape(c * math.prod(kernel_size), n * height * width)


def second_moment(columns: Tensor, *, bias: bool) -> Tensor:
    """Sum u u' over the columns u, each with a one appended if `bias`; shape (n_features + bias,) squared."""
    moment = columns @ columns.T
    if not bias:
        return moment
    total = columns.sum(dim=1, keepdim=True)
    count = total.new_full((1, 1), columns.shape[1])
    return torch.cat([torch.cat([moment, total], dim=1), torch.cat([total.T, count], dim=1)])


def split_damping(A: Tensor, G: Tensor, damping: float) -> tuple[float, float]:
    """Split Tikhonov damping between two factors by the balance of their mean eigenvalues [1, section 6.3].

    (A + pi sqrt(damping) I) ⊗ (G + sqrt(damping) / pi I) is A ⊗ G + damping I plus cross terms, which are
    smallest for pi^2 = (tr A / dim A) / (tr G / dim G).

    Returns:
        What to add to the diagonal of A and of G; equal parts if a trace is zero.
    """
    mean_A, mean_G = (float(M.diagonal().mean()) for M in (A, G))
    pi = math.sqrt(mean_A / mean_G) if mean_A > 0 and mean_G > 0 else 1.0
    return math.sqrt(damping) * pi, math.sqrt(damping) / pi


def damped_inverse(factor: Tensor, damping: float) -> Tensor | None:
    """Invert a symmetric positive semidefinite matrix plus `damping` times the identity, by Cholesky.

    Returns:
        None where rounding or bad entries leave the damped matrix not positive definite.
    """
    damped = factor.clone()
    damped.diagonal().add_(damping)
    L, info = torch.linalg.cholesky_ex(damped)
    if int(info) != 0:
        return None
    # LAPACK returns columns first. Rows first is how a stored inverse comes back, and products round by
    # layout.
    inverse = torch.cholesky_inverse(L).contiguous()
    return inverse if bool(inverse.isfinite().all()) else None


@cache
def triangle_indices(n: int, device: torch.device) -> Tensor:
    """Return where the upper triangle stands in a flattened n x n matrix, shape (n(n+1)/2,)."""
    row, column = torch.triu_indices(n, n, device=device)
    indices: Tensor = row * n + column
    return indices


def pack_triangle(matrix: Tensor) -> Tensor:
    """Return the upper triangle of a symmetric matrix as a vector."""
    return matrix.reshape(-1).index_select(0, triangle_indices(len(matrix), matrix.device))


def unpack_triangle(triangle: Tensor, n: int) -> Tensor:
    """Return the symmetric n x n matrix with this upper triangle."""
    indices = triangle_indices(n, triangle.device)
    upper = triangle.new_zeros(n * n).index_copy_(0, indices, triangle).view(n, n)
    return upper + upper.triu(1).T
