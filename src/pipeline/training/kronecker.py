"""The mathematics of K-FAC: Kronecker factors, their damping, their inverses.

The Fisher matrix of one layer with weights W (n_outputs, n_inputs) is approximated by A ⊗ G, where A is the
second moment of the layer's inputs (with a one appended for the bias) and G that of the gradients at its
outputs, both of single samples. Then the natural gradient of W is G^-1 (dL/dW) A^-1.

Layout: all statistics are computed from *columns*, matrices (n_features, n_positions * n_samples), samples
last. A convolution is a linear layer applied at every position, so its columns are image patches [2]; A
averages over positions and G sums over them. Stacks of matrices are batched: one matrix per group of a convolution, a
2 x 2 matrix per unit of a normalization, a 1 x 1 matrix per row of an embedding, whose A is diagonal.

References:
    [1] Martens, Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature",
        ICML 2015.
    [2] Grosse, Martens, "A Kronecker-factored approximate Fisher matrix for convolution layers", ICML 2016.
    [3] Osawa, Tsuji, Ueno, Naruse, Foo, Yokota, "Scalable and practical natural gradient for large-scale deep
        learning", TPAMI 2022.
    [4] George, Laurent, Bouthillier, Ballas, Vincent, "Fast approximate natural gradient descent in a
        Kronecker-factored eigenbasis", NeurIPS 2018.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from pipeline.training.products import times_own_transpose, times_transpose


def linear_columns(x: Tensor) -> Tensor:
    """Rearrange inputs or output gradients of a linear layer, shape (n, ..., n_features), as columns."""
    by_position = x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])
    return by_position.permute(2, 1, 0).flatten(1).contiguous()


def convolution_gradient_columns(gradient: Tensor) -> Tensor:
    """Rearrange output gradients of a convolution, shape (n, c, *image), as columns (c, positions * n)."""
    return gradient.flatten(1).T.reshape(gradient.shape[1], -1)


def convolution_input_columns(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Cut images into the patches that a convolution sees.

    Does what `torch.nn.functional.unfold` does, in any number of dimensions, but with patches as columns and samples
    last: copies then run along long rows, and the matrix product that follows reads contiguous ones.

    Args:
        x: Shape (n, c, *image).

    Returns:
        Shape (c * entries of the kernel, output positions * n).
    """
    n, c, *image = x.shape
    padded = x.new_zeros(c, *(size + 2 * pad for size, pad in zip(image, padding, strict=True)), n)
    inner = tuple(slice(pad, pad + size) for size, pad in zip(image, padding, strict=True))
    padded[(slice(None), *inner)] = x.movedim((0, 1), (-1, 0))
    channel, *steps, sample = padded.stride()
    size = [
        (padded.shape[1 + i] - dilation[i] * (kernel_size[i] - 1) - 1) // stride[i] + 1
        for i in range(len(image))
    ]
    within = [step * by for step, by in zip(steps, dilation, strict=True)]
    across = [step * by for step, by in zip(steps, stride, strict=True)]
    patches = padded.as_strided((c, *kernel_size, *size, n), (channel, *within, *across, sample))
    return patches.reshape(c * math.prod(kernel_size), math.prod(size) * n)


def second_moment(columns: Tensor, *, bias: bool) -> Tensor:
    """Sum u u' over the columns u, each with a one appended if `bias`.

    Args:
        columns: Shape (..., n_features, n_columns).

    Returns:
        Shape (..., n_features + bias, n_features + bias).
    """
    if not bias:
        return times_own_transpose(columns)
    *stack, n, n_columns = columns.shape
    moment = columns.new_empty(*stack, n + 1, n + 1)
    times_own_transpose(columns, out=moment[..., :n, :n])
    moment[..., n, :n] = moment[..., :n, n] = columns.sum(dim=-1)
    moment[..., n, n] = n_columns
    return moment


def normalization_gradients(inputs: Tensor, gradients: Tensor) -> Tensor:
    """Return the gradients of scale and shift of each unit by single samples.

    Args:
        inputs: Normalized inputs before scale and shift, shape (n, n_positions, n_units).
        gradients: Gradients at the outputs, of the same shape.

    Returns:
        Shape (n, n_units, 2) of (scale, shift).
    """
    return torch.stack([(inputs * gradients).sum(dim=1), gradients.sum(dim=1)], dim=-1)


def normalization_moment(gradients: Tensor) -> Tensor:
    """Sum over samples the outer products of each unit's gradient with itself.

    A normalization scales and shifts each unit by two numbers of its own; their Fisher matrix is 2 x 2, and
    exact within the unit [3, section 3.3].

    Args:
        gradients: Gradients by single samples, shape (n, n_units, k) for k trained numbers of each unit.

    Returns:
        Shape (n_units, k, k).
    """
    return torch.einsum("nui,nuj->uij", gradients, gradients)


def occurrences(indices: Tensor, n_rows: int, dtype: torch.dtype) -> Tensor:
    """Count how often each row of a table was looked up: the diagonal second moment of one-hot inputs.

    Returns:
        Shape (n_rows, 1, 1): a stack of 1 x 1 matrices.
    """
    return torch.bincount(indices.reshape(-1), minlength=n_rows).to(dtype).view(n_rows, 1, 1)


def split_damping(mean_A: float, mean_G: float, damping: float) -> tuple[float, float]:
    """Split Tikhonov damping between two factors by the balance of their mean eigenvalues [1, section 6.3].

    (A + pi sqrt(damping) I) ⊗ (G + sqrt(damping) / pi I) is A ⊗ G + damping I plus cross terms, which are
    smallest for pi^2 = (tr A / dim A) / (tr G / dim G).

    Args:
        mean_A: tr A / dim A.
        mean_G: tr G / dim G.

    Returns:
        What to add to the diagonal of A and of G; equal parts if a trace is zero.
    """
    pi = math.sqrt(mean_A / mean_G) if mean_A > 0 and mean_G > 0 else 1.0
    return math.sqrt(damping) * pi, math.sqrt(damping) / pi


def is_finite(tensor: Tensor) -> bool:
    """Whether all entries are finite; their sum is tested, at a fraction of the cost of testing each.

    ASSUME: finite entries do not add up to infinity, which would take entries beyond 1e30.
    """
    return bool(tensor.sum().isfinite())


def damped_inverse(factor: Tensor, damping: float) -> Tensor | None:
    """Invert symmetric positive semidefinite matrices plus `damping` times the identity, by Cholesky.

    Args:
        factor: Shape (..., n, n).

    Returns:
        The inverse, or None if a damped matrix is not positive definite because of rounding or bad entries.
    """
    damped = factor.clone()
    damped.diagonal(dim1=-2, dim2=-1).add_(damping)
    if factor.shape[-1] == 1:
        return damped.reciprocal() if is_finite(damped) and bool((damped > 0).all()) else None
    L, info = torch.linalg.cholesky_ex(damped)
    if bool(info.any()):
        return None
    # LAPACK returns column-major matrices, but a stored inverse is loaded as row-major, and the rounding of products
    # depends on the layout. The inverse is exactly symmetric.
    inverse = torch.cholesky_inverse(L).mT.contiguous()
    return inverse if is_finite(inverse) else None


def eigenbasis(factor: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return eigenvectors (as columns) and eigenvalues; eigenvalues below zero by rounding are set to zero.

    Args:
        factor: Shape (..., n, n), symmetric positive semidefinite.

    Returns:
        None where entries are not finite or the iteration does not converge.
    """
    if not is_finite(factor):
        return None
    try:
        values, vectors = torch.linalg.eigh(factor)
    except RuntimeError:  # torch's LinAlgError is a subclass
        return None
    return vectors.contiguous(), values.clamp_min(0)


def multiply_left(blocks: Sequence[Tensor], X: Tensor) -> Tensor:
    """Return blockdiag(blocks) X."""
    if len(blocks) == 1:
        return times_transpose(blocks[0], X.mT)
    rows = torch.split(X, [B.shape[-1] for B in blocks], dim=-2)
    return torch.cat([times_transpose(B, part.mT) for B, part in zip(blocks, rows, strict=True)], dim=-2)


def multiply_right(X: Tensor, blocks: Sequence[Tensor]) -> Tensor:
    """Return X blockdiag(blocks)."""
    if len(blocks) == 1:
        return times_transpose(X, blocks[0].mT)
    columns = torch.split(X, [B.shape[-2] for B in blocks], dim=-1)
    return torch.cat([times_transpose(part, B.mT) for B, part in zip(blocks, columns, strict=True)], dim=-1)


def rotated_second_moment(
    inputs: Tensor, gradients: Tensor, basis_A: Sequence[Tensor], basis_G: Sequence[Tensor], n_samples: int
) -> Tensor:
    """Sum over samples the squares of their gradients in the eigenbasis of the Kronecker factors.

    These are the diagonal of the Fisher matrix in that basis, the best eigenvalues for it [4, section 3.1].

    Args:
        inputs: Columns, shape (..., n_inputs, n_positions * n_samples).
        gradients: Columns, shape (..., n_outputs, n_positions * n_samples).

    Returns:
        Shape (..., n_outputs, n_inputs).
    """
    a, g = (
        (turned := multiply_left([Q.mT for Q in basis], columns))
        .reshape(*turned.shape[:-1], -1, n_samples)
        .movedim(-1, 0)
        for basis, columns in ((basis_A, inputs), (basis_G, gradients))
    )
    total = torch.zeros(*g.shape[1:-1], a.shape[-2]).to(g)
    # A few samples at a time: each one's gradient is as large as the layer's weights.
    n_together = max(1, 2**22 // max(total.numel(), 1))
    for part_a, part_g in zip(torch.split(a, n_together), torch.split(g, n_together), strict=True):
        total += times_transpose(part_g, part_a).square().sum(dim=0)
    return total


def turn_eigenvalues(
    S: Tensor, old: tuple[Sequence[Tensor], Sequence[Tensor]], new: tuple[Sequence[Tensor], Sequence[Tensor]]
) -> Tensor:
    """Transform a matrix that is diagonal in one Kronecker eigenbasis to another and return its diagonal there.

    Args:
        S: Shape (..., n_outputs, n_inputs).
        old: Bases of A and of G that `S` refers to.
        new: Bases of A and of G that the result refers to.
    """
    turn_A, turn_G = (
        [(theirs.mT @ ours).square() for ours, theirs in zip(a, b, strict=True)]
        for a, b in zip(old, new, strict=True)
    )
    return multiply_left(turn_G, multiply_right(S, [T.mT for T in turn_A]))


@cache
def triangle_indices(n: int, device: torch.device) -> Tensor:
    """Return the indices of the upper triangle in a flattened n x n matrix, shape (n(n+1)/2,)."""
    row, column = torch.triu_indices(n, n, device=device)
    indices: Tensor = row * n + column
    return indices


def pack_triangle(matrices: Tensor) -> Tensor:
    """Return the upper triangles of symmetric matrices, shape (..., n, n), one after the other as a vector."""
    n = matrices.shape[-1]
    return matrices.reshape(-1, n * n).index_select(1, triangle_indices(n, matrices.device)).reshape(-1)


def unpack_triangle(triangles: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the symmetric matrices of this shape, (..., n, n), with these upper triangles."""
    n = shape[-1]
    indices = triangle_indices(n, triangles.device)
    rows = triangles.view(-1, len(indices))
    upper = rows.new_zeros(len(rows), n * n).index_copy_(1, indices, rows).view(-1, n, n)
    return (upper + upper.triu(1).mT).view(*shape)
