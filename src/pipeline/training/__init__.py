"""Large-batch training with a second-order method on a smoothed objective.

`train` runs a `Recipe`; `KFAC` can be used alone, before any torch optimizer, and `KFACOptimizer` is both in one. A new
smoothing is a file in `smoothing` and a row in `SMOOTHINGS`; a new decay of the rate is a row in `SCHEDULES`.
"""

from pipeline.training.augmentation import AUGMENTATIONS
from pipeline.training.checkpoint import State
from pipeline.training.evaluation import Evaluation, evaluate
from pipeline.training.history import EpochRecord, History
from pipeline.training.kfac import KFAC
from pipeline.training.kfac_optimizer import KFACOptimizer
from pipeline.training.logs import JSONLines, to_tensorboard
from pipeline.training.loop import train
from pipeline.training.mapped import MappedImages
from pipeline.training.optimizers import METHODS, OPTIMIZERS
from pipeline.training.range_test import RangeTest, learning_rate_range_test
from pipeline.training.recipe import Plan, Recipe, plan
from pipeline.training.sampling import Samples
from pipeline.training.schedule import SCHEDULES, Schedule
from pipeline.training.settings import KFACSettings
from pipeline.training.sharpness import Sharpness, measure_sharpness
from pipeline.training.smoothed_optimizer import MixupCollate, SmoothedOptimizer
from pipeline.training.smoothing import SMOOTHINGS, Smoothing

__all__ = [
    "AUGMENTATIONS",
    "KFAC",
    "METHODS",
    "OPTIMIZERS",
    "SCHEDULES",
    "SMOOTHINGS",
    "EpochRecord",
    "Evaluation",
    "History",
    "JSONLines",
    "KFACOptimizer",
    "KFACSettings",
    "MappedImages",
    "MixupCollate",
    "Plan",
    "RangeTest",
    "Recipe",
    "Samples",
    "Schedule",
    "Sharpness",
    "SmoothedOptimizer",
    "Smoothing",
    "State",
    "evaluate",
    "learning_rate_range_test",
    "measure_sharpness",
    "plan",
    "to_tensorboard",
    "train",
]
