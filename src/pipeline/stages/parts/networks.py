"""Networks of a study."""

import torch

from pipeline.artifacts.results.images import ImagesFacts
from pipeline.artifacts.store import Artifact
from pipeline.config.images import Model
from pipeline.config.precision import OwnNetwork
from pipeline.models import Classifier, build_model
from pipeline.precision import Budget


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


def budget_of(own: OwnNetwork) -> Budget:
    """What half precision may cost a network of one's own; a layer may add a quarter of the whole."""
    given = own.budget
    return Budget(
        points=given.points, layer_error=given.relative_error / 4, output_error=given.relative_error
    )
