"""Images of a data set, or samples of somebody's own, as network inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.results.images import ImagesFacts
from pipeline.artifacts.store import Artifact
from pipeline.errors import ConfigError
from pipeline.stages.parts.tensors import tensor
from pipeline.training import MappedImages, Samples

# Bytes of normalized images that every process keeps.
MOST_IN_MEMORY = 2**30


def read_images(dataset: Artifact, part: str, n: int | None = None) -> tuple[Tensor, Tensor]:
    """Read one part of a data set into memory: zero mean and unit variance over the training part.

    Args:
        n: How many, the first ones; `None` is all.

    Returns:
        Images of shape (n, channels, height, width), float32, and labels of shape (n,), int64.
    """
    return _mapped(dataset, part, torch.device("cpu"), n)[:], tensor(dataset, f"{part}_labels", n)


def samples_of(dataset: Artifact, part: str, device: torch.device, n: int | None = None) -> Samples:
    """The first `n` samples of one part, or all, for training and measuring.

    Small sets are normalized once and lie on the device; large ones stay in their file until a step wants them.
    """
    images = _mapped(dataset, part, device, n)
    labels = tensor(dataset, f"{part}_labels", n).to(device)
    return Samples(images[:] if 4 * images.pixels.nbytes <= MOST_IN_MEMORY else images, labels)


def _mapped(dataset: Artifact, part: str, device: torch.device, n: int | None) -> MappedImages:
    facts = dataset.facts_as(ImagesFacts)
    return MappedImages(dataset.array(f"{part}_images")[:n], facts.pixel_mean, facts.pixel_std, device)


def read_samples(inputs: Path, labels: Path | None) -> tuple[Tensor, Tensor | None]:
    """Read `.npy` files: samples as a network takes them, and their classes.

    Raises:
        ConfigError: If a file is not an array, a sample is not finite, or there is not one label per sample.
    """
    samples = torch.from_numpy(_array(inputs)).float()
    if not samples.isfinite().all():
        raise ConfigError(f"{inputs}: holds NaN or infinity; leave such samples out")
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
