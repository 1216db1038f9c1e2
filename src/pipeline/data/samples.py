"""Samples of somebody's own, as a network takes them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError


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
