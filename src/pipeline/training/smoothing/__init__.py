"""Smoothed objectives: one method per file, a row in `SMOOTHINGS` each, composable in any order."""

from pipeline.training.smoothing.base import Former, Smoothing
from pipeline.training.smoothing.gradient_noise import GradientNoise
from pipeline.training.smoothing.label_smoothing import LabelSmoothing
from pipeline.training.smoothing.mixup import Mixup
from pipeline.training.smoothing.running_mixup import RunningMixup
from pipeline.training.smoothing.sam import SAM
from pipeline.training.smoothing.weight_average import WeightAverage
from pipeline.training.smoothing.weight_noise import WeightNoise

SMOOTHINGS: dict[str, type[Smoothing]] = {
    smoothing.name: smoothing
    for smoothing in (
        WeightNoise,
        Mixup,
        RunningMixup,
        LabelSmoothing,
        SAM,
        GradientNoise,
        WeightAverage,
    )
}

__all__ = [
    "SAM",
    "SMOOTHINGS",
    "Former",
    "GradientNoise",
    "LabelSmoothing",
    "Mixup",
    "RunningMixup",
    "Smoothing",
    "WeightAverage",
    "WeightNoise",
]
