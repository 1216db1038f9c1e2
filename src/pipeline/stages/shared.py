"""What several stages do alike: read a spec, read the images of a split."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.store import Artifact
from pipeline.errors import ArtifactError
from pipeline.training import Samples

PARTS = ("train", "validation", "test")


def read_spec(path: Path) -> dict[str, Any]:
    """Read a frozen spec."""
    try:
        spec: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not a readable spec ({error}); delete it and run snakemake again"
        ) from None
    return spec


def read_samples(dataset: Artifact, part: str) -> Samples:
    """Read one part of a data set as network inputs: one channel, zero mean and unit variance over the training part.

    Returns:
        Images of shape (n, 1, height, width), float32, and labels of shape (n,), int64.
    """
    pixels = torch.from_numpy(np.array(dataset.array(f"{part}_images"))).to(torch.float32)
    mean, std = dataset.facts["pixel_mean"], dataset.facts["pixel_std"]
    labels = torch.from_numpy(np.array(dataset.array(f"{part}_labels")))
    return Samples(images=((pixels - mean) / std).unsqueeze(1), labels=labels)
