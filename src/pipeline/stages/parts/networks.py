"""Networks of a study."""

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.artifacts.store import Artifact
from pipeline.models import Classifier, build_model


def model_of(spec: Mapping[str, Any], dataset: Artifact, seed: int) -> Classifier:
    """Build the study's network for a data set, initialized by seed."""
    options = dict(spec)
    _, *channels, height, width = dataset.array("train_images").shape
    return build_model(
        options.pop("name"),
        input_shape=(channels[0] if channels else 1, height, width),
        n_classes=len(dataset.facts["classes"]),
        generator=torch.Generator().manual_seed(seed),
        **options,
    )
