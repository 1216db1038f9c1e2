"""Images of a data set as network inputs, and the networks that take them."""

import torch
from torch import Tensor

from pipeline.artifacts.results.images import ImagesFacts
from pipeline.artifacts.store import Artifact
from pipeline.training import MappedImages, Samples

# Most bytes of normalized images that every process keeps in memory.
MOST_IN_MEMORY = 2**30


def read_images(dataset: Artifact, part: str, n: int | None = None) -> tuple[Tensor, Tensor]:
    """Read the first `n` images of a part of a data set, or all, normalized by mean and deviation of the training part.

    They have the shape (n, channels, height, width), float32, and their labels the shape (n,), int64.
    """
    return _mapped(dataset, part, torch.device("cpu"), n)[:], dataset.tensor(f"{part}_labels", n)


def samples_of(dataset: Artifact, part: str, device: torch.device, n: int | None = None) -> Samples:
    """The first `n` samples of one part, or all, for training and measuring.

    Small sets are normalized once and kept on the device; large ones stay in their file until a step needs the images.
    """
    images = _mapped(dataset, part, device, n)
    labels = dataset.tensor(f"{part}_labels", n).to(device)
    return Samples(images[:] if 4 * images.pixels.nbytes <= MOST_IN_MEMORY else images, labels)


def _mapped(dataset: Artifact, part: str, device: torch.device, n: int | None) -> MappedImages:
    facts = dataset.facts_as(ImagesFacts)
    return MappedImages(dataset.array(f"{part}_images")[:n], facts.pixel_mean, facts.pixel_std, device)
