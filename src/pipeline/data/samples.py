"""A user's samples, as a network takes them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.vectors import open_array
from pipeline.errors import ConfigError


def read_samples(inputs: Path, labels: Path | None) -> tuple[Tensor, Tensor | None]:
    """Read `.npy` files: samples as a network takes them, and their classes or None without a file of labels.

    Raises:
        ConfigError: If a file is not an array, a sample is not finite, or there is not one label per sample.
    """
    samples = single(open_samples(inputs))
    if not samples.isfinite().all():
        raise ConfigError(f"{inputs}: holds NaN or infinity; leave such samples out")
    if labels is None:
        return samples, None
    return samples, torch.from_numpy(np.array(open_labels(labels, len(samples))).astype(np.int64))


def noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return standard normal samples in place of real ones; they are the same in every call."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def is_noise(samples: Tensor) -> bool:
    """Return whether samples are those of `noise`, whatever the name of their file."""
    return np.array_equal(samples[:1].numpy(), noise((1, *samples.shape[1:])))


def open_samples(path: Path) -> NDArray[Any]:
    """Map samples into memory.

    Raises:
        ConfigError: If the file is not an array of real numbers, or holds no sample.
    """
    array = open_array(path)
    if array.ndim == 0 or array.size == 0 or array.dtype.kind not in "fiu":
        raise ConfigError(
            f"{path}: holds {array.dtype} of shape {array.shape}; wanted at least one sample of real numbers"
        )
    return array


def single(samples: NDArray[Any]) -> Tensor:
    """Return samples of any real type and byte order in single precision; too large numbers become infinite."""
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(samples, np.float32))


def open_labels(path: Path, n: int) -> NDArray[Any]:
    """Map the classes of n samples into memory.

    Raises:
        ConfigError: If the file is not an array of n whole numbers.
    """
    array = open_array(path)
    if array.shape != (n,):
        raise ConfigError(f"{path}: holds classes of shape {array.shape}; wanted one for each of {n} samples")
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.size and array.max() >= 2**63:
        raise ConfigError(f"{path}: holds class {array.max()}; wanted classes as whole numbers from 0")
    if array.dtype.kind not in "iu":
        raise ConfigError(
            f"{path}: holds {array.dtype}; wanted classes as whole numbers from 0, so write it as int64"
        )
    return array
