"""Rescaling of the weights of normalized layers to a constant norm."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

EPSILON = 1e-9


def scale_free_weights(model: nn.Module) -> list[Tensor]:
    """Find the weights whose norm does not matter: those without a bias that are followed by batch normalization.

    A layer is followed by the next in the network's list of layers, which is the order of calls in all networks here.
    """
    layers = [module for module in model.modules() if not any(module.children())]
    return [
        layer.weight
        for layer, follower in pairwise(layers)
        if isinstance(layer, nn.Conv2d | nn.Linear)
        and layer.bias is None
        and layer.weight.requires_grad
        and isinstance(follower, nn.BatchNorm1d | nn.BatchNorm2d)
    ]


@torch.no_grad()
def rescale(weights: Sequence[Tensor]) -> None:
    """Give each weight the norm sqrt(2 n_outputs) again, which He's initialization gives it on average [1, eq. 14].

    The network's outputs do not change. Without rescaling these weights would grow, and each step would turn them less,
    as with a falling rate.

    References:
        [1] Osawa, Tsuji, Ueno, Naruse, Yokota, Matsuoka, "Large-scale distributed second-order optimization using
            Kronecker-factored approximate curvature for deep convolutional neural networks", CVPR 2019.
    """
    for weight in weights:
        weight.mul_(math.sqrt(2 * len(weight)) / (weight.norm() + EPSILON))
