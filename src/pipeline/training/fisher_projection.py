"""Fisher-orthogonal projection: keep part of the difference between the gradients of two halves of a batch [1].

Large batches average the variance of gradients away. FOP takes the difference of the halves' gradients and removes its
component along the mean gradient g: the rest p is orthogonal to g in the Fisher metric, p'Fg = 0. It adds a multiple of
p to g and preconditions the sum. The multiple is c g'F^-1 p / p'F^-1 p for each layer, whichever half is called the
first. With c = 1 / eta - 1 it minimizes the quadratic model of the loss over steps eta F^-1 (g + a p). The paper adapts
the step too; here c is `KFACSettings.difference_weight`, which a study tunes like other options.

References:
    [1] Lu, Armour, "Fisher-orthogonal projection methods for natural gradient descent with large batches", 2025,
        arXiv:2508.13898.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from pipeline.training.curvature import Curvature


def with_difference(
    gradients: Mapping[str, Tensor],
    natural: dict[str, Tensor],
    apart: Mapping[str, Tensor],
    curvature: Curvature,
    *,
    damping: float,
    weight: float,
) -> tuple[dict[str, Tensor], tuple[float, float]]:
    """Add to each layer's natural gradient the Fisher-orthogonal part of the difference between the halves.

    Args:
        gradients: The mean gradient of each layer.
        natural: The natural gradients that belong to them.
        apart: Difference between the halves' gradients, for the same layers.
        curvature: The factors and inverses of all layers, on this process.
        damping: The damping of the inverses.
        weight: The factor c of the addition; 0 returns `natural`.

    Returns:
        The natural gradients, and the squared norms of `gradients` and `apart` in the metric of the inverse Fisher
        matrix.
    """
    square = sum(float(torch.sum(natural[name] * g)) for name, g in gradients.items())
    turned = curvature.natural(apart, damping)
    squares = square, sum(float(torch.sum(turned[name] * d)) for name, d in apart.items())
    if not weight:
        return natural, squares
    parts = {
        name: orthogonal_part(apart[name], g, partial(curvature.fisher, name))
        for name, g in gradients.items()
    }
    turned = curvature.natural(parts, damping)
    added = {
        name: projected(g, parts[name], natural[name], turned[name], weight) for name, g in gradients.items()
    }
    return added, squares


def orthogonal_part(difference: Tensor, gradient: Tensor, fisher: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the part of `difference` that is orthogonal to `gradient` in the metric that `fisher` multiplies by.

    If the gradient has length zero in that metric, `difference` is returned.
    """
    image = fisher(gradient)
    length = torch.sum(gradient * image)
    if not bool(length > 0):
        return difference
    return difference - (torch.sum(difference * image) / length) * gradient


def projected(gradient: Tensor, part: Tensor, natural: Tensor, natural_part: Tensor, weight: float) -> Tensor:
    """Return the natural gradient with its Fisher-orthogonal addition.

    Args:
        gradient: The mean gradient g.
        part: The orthogonal part p of the halves' difference.
        natural: F^-1 g.
        natural_part: F^-1 p.
        weight: c; 0 returns `natural`.
    """
    length = torch.sum(part * natural_part)
    if not bool(length > 0):
        return natural
    return natural + weight * (torch.sum(gradient * natural_part) / length) * natural_part
