"""The share of torchvision's networks that K-FAC preconditions."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.models.imported import import_library
from pipeline.training import KFAC

#: One or two networks of each family for classification.
ARCHITECTURES = (
    "alexnet", "vgg11_bn", "resnet18", "squeezenet1_0", "densenet121", "inception_v3", "googlenet",
    "shufflenet_v2_x0_5", "mobilenet_v2", "mobilenet_v3_small", "resnext50_32x4d", "wide_resnet50_2", "mnasnet0_5",
    "efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "vit_b_16", "convnext_tiny", "swin_t", "maxvit_t",
)  # fmt: skip


@dataclass(frozen=True)
class Coverage:
    """The parameters of a network.

    Attributes:
        n_parameters: Number of trained parameters.
        left: Number of those that keep their gradients, by the kind of module and the parameter's name there.
    """

    n_parameters: int
    left: Mapping[str, int]

    @property
    def share(self) -> float:
        """The share of the parameters that is preconditioned."""
        return 1 - sum(self.left.values()) / self.n_parameters


def coverage(name: str) -> Coverage:
    """Count the parameters of a network of torchvision that K-FAC preconditions, without computing anything."""
    options: dict[str, Any] = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    # Regnets compute their widths with tensors, which a device without memory cannot do.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model: nn.Module = import_library("torchvision.models").get_model(name, weights=None, **options)
    sizes = {parameter: p.numel() for parameter, p in model.named_parameters()}
    left: Counter[str] = Counter()
    for parameter in KFAC(model).not_preconditioned:
        owner, _, own = parameter.rpartition(".")
        left[f"{own} of {type(model.get_submodule(owner)).__name__}"] += sizes[parameter]
    return Coverage(sum(sizes.values()), dict(left))
