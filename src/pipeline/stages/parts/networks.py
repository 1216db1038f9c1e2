"""Networks of a study."""

import torch

from pipeline.artifacts.results.images import ImagesFacts
from pipeline.artifacts.store import Artifact
from pipeline.config.models import Model
from pipeline.models import Classifier, build_model


def model_of(model: Model, dataset: Artifact, seed: int) -> Classifier:
    """Build the study's network for a data set, initialized by seed."""
    _, *channels, height, width = dataset.array("train_images").shape
    return build_model(
        model.name,
        input_shape=(channels[0] if channels else 1, height, width),
        n_classes=len(dataset.facts_as(ImagesFacts).classes),
        generator=torch.Generator().manual_seed(seed),
        **model.model_dump(exclude={"name"}),
    )
