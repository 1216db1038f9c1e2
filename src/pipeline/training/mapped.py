"""Images that stay in their file until a step wants them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class MappedImages:
    """Pixels of a memory-mapped array, normalized when they are read.

    Indexing works as for the tensor of all normalized images. Each process reads no more than its own micro-batches,
    and processes of one node share the pages that the system keeps.

    Attributes:
        pixels: Shape (n, h, w) or (n, c, h, w), uint8, best mapped from a file.
        mean: Subtracted from every pixel.
        std: Divides the difference.
        device: The device that normalized images go to.
    """

    pixels: NDArray[np.uint8]
    mean: float
    std: float
    device: torch.device

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        """Read images: shape (n chosen, c, h, w), float32."""
        index = chosen.cpu().numpy() if isinstance(chosen, Tensor) else chosen
        # Copy: arrays mapped from a file are read-only, and torch has no read-only tensors.
        part = torch.from_numpy(np.array(self.pixels[index])).to(self.device, torch.float32)
        normalized = (part - self.mean) / self.std
        return normalized.unsqueeze(1) if normalized.ndim == 3 else normalized
