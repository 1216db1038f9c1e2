"""Arrays of an artefact as tensors."""

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.store import Artifact


def tensor(artifact: Artifact, name: str, n: int | None = None) -> Tensor:
    """Read an array, or its first `n` entries, into memory of its own.

    An array that is mapped from the file is read-only, which torch cannot express.
    """
    return torch.from_numpy(np.array(artifact.array(name)[:n]))
