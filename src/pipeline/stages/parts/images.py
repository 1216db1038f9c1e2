"""Images of a data set, or samples of somebody's own, as network inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.store import Artifact
from pipeline.errors import ConfigError
from pipeline.stages.parts.tensors import tensor


def read_images(dataset: Artifact, part: str) -> tuple[Tensor, Tensor]:
    """Read one part of a data set: one channel, zero mean and unit variance over the training part.

    Returns:
        Images of shape (n, 1, height, width), float32, and labels of shape (n,), int64.
    """
    pixels = tensor(dataset, f"{part}_images").to(torch.float32)
    mean, std = dataset.facts["pixel_mean"], dataset.facts["pixel_std"]
    return ((pixels - mean) / std).unsqueeze(1), tensor(dataset, f"{part}_labels")


def read_samples(inputs: Path, labels: Path | None) -> tuple[Tensor, Tensor | None]:
    """Read `.npy` files: samples as a network takes them, and their classes.

    Raises:
        ConfigError: If a file is not an array, or there is not one label per sample.
    """
    samples = torch.from_numpy(_array(inputs)).float()
    if labels is None:
        return samples, None
    classes = torch.from_numpy(_array(labels)).long()
    if classes.shape != samples.shape[:1]:
        raise ConfigError(
            f"{labels}: holds classes of shape {tuple(classes.shape)}; wanted one for each of {len(samples)} samples"
        )
    return samples, classes


def _array(path: Path) -> np.ndarray[Any, Any]:
    try:
        array: np.ndarray[Any, Any] = np.load(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable array ({error}); write it with numpy.save") from None
    if array.ndim == 0 or len(array) == 0 or not np.issubdtype(array.dtype, np.number):
        raise ConfigError(
            f"{path}: holds {array.dtype} of shape {array.shape}; wanted at least one sample of numbers"
        )
    return array
