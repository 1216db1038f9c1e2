"""Arrays of an artefact as tensors."""

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.store import Artifact


def tensor(artifact: Artifact, name: str) -> Tensor:
    """Read an array into memory of its own: what is mapped from the file is read-only, which torch cannot express."""
    return torch.from_numpy(np.array(artifact.array(name)))
