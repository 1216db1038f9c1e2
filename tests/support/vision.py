"""torchvision's architectures beside a torch for the CPU.

PyPI's wheel of torchvision is built for CUDA's torch, and its native operators do not load beside another one. Its
networks need none of them; two must be declared for the package to be imported.
"""

import torch

_library = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision import models  # noqa: E402

__all__ = ["models"]
