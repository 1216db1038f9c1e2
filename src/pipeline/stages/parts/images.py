"""Images of a data set as network inputs."""

import torch
from torch import Tensor

from pipeline.artifacts.store import Artifact
from pipeline.stages.parts.tensors import tensor


def read_images(dataset: Artifact, part: str) -> tuple[Tensor, Tensor]:
    """Read one part of a data set: one channel, zero mean and unit variance over the training part.

    Returns:
        Images of shape (n, 1, height, width), float32, and labels of shape (n,), int64.
    """
    pixels = tensor(dataset, f"{part}_images").to(torch.float32)
    mean, std = dataset.facts["pixel_mean"], dataset.facts["pixel_std"]
    return ((pixels - mean) / std).unsqueeze(1), tensor(dataset, f"{part}_labels")
