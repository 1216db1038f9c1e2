"""Smoothed objectives: one method per file, a row in `SMOOTHINGS` each, composable in any order."""

from pipeline.training.smoothing.base import Smoothing
from pipeline.training.smoothing.label_smoothing import LabelSmoothing
from pipeline.training.smoothing.mixup import Mixup
from pipeline.training.smoothing.weight_noise import WeightNoise

SMOOTHINGS: dict[str, type[Smoothing]] = {
    "weight_noise": WeightNoise,
    "mixup": Mixup,
    "label_smoothing": LabelSmoothing,
}

__all__ = ["SMOOTHINGS", "LabelSmoothing", "Mixup", "Smoothing", "WeightNoise"]
