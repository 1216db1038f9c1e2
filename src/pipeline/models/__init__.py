"""Networks: one file each, built by name.

Every network maps (n, c, h, w) to class scores, and returns the input of its last linear layer by `.features(x)`. It
computes the same operators for every input, so that it can be converted to half precision. A new network is a file with
a builder and a row in `MODELS` (see docs/how-to/network.md).
"""

from collections.abc import Callable
from typing import Any

import torch

from pipeline.errors import ConfigError
from pipeline.models.classifier import Classifier
from pipeline.models.cnn import cnn
from pipeline.models.imported import imported
from pipeline.models.mlp import mlp
from pipeline.models.resnet import resnet
from pipeline.models.vit import vit

MODELS: dict[str, Callable[..., Classifier]] = {
    "cnn": cnn,
    "mlp": mlp,
    "resnet": resnet,
    "vit": vit,
    "imported": imported,
}


def build_model(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    n_classes: int,
    generator: torch.Generator,
    **options: Any,
) -> Classifier:
    """Build and initialize the network of this name; `options` are the keyword arguments of its builder."""
    if name not in MODELS:
        raise ConfigError(f"there is no model {name!r}; choose one of {', '.join(sorted(MODELS))}")
    return MODELS[name](input_shape=input_shape, n_classes=n_classes, generator=generator, **options)


__all__ = ["MODELS", "Classifier", "build_model", "cnn", "imported", "mlp", "resnet", "vit"]
