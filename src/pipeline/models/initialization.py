"""Initial weights."""

import math

import torch
from torch import nn


@torch.no_grad()
def he_normal_(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight matrix from N(0, 2 / fan_in), set biases to zero and normalizations to the identity.

    Embeddings are drawn from N(0, 0.02^2), small compared with the values they are added to.

    With rectifiers the variance 2 / fan_in keeps the variance of activations from layer to layer [1, eq. 10]. With
    smaller weights, networks without batch normalization diverge at large learning rates. Layers draw in the order of
    `model.modules()`, so one generator state gives one network.

    References:
        [1] He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0.0, math.sqrt(2 / fan_in), generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, 0.02, generator=generator)
