"""Large-batch training with a second-order method on a smoothed objective.

`train` runs a `Recipe`; `KFAC` can be used alone, before any torch optimizer. A new smoothing is a file in
`smoothing` and a row in `SMOOTHINGS`; a new decay of the rate is a row in `SCHEDULES`.
"""

from pipeline.training.checkpoint import State
from pipeline.training.evaluation import Evaluation, evaluate
from pipeline.training.history import EpochRecord, History
from pipeline.training.kfac import KFAC
from pipeline.training.loop import train
from pipeline.training.optimizers import OPTIMIZERS
from pipeline.training.recipe import METHODS, KFACSettings, Plan, Recipe, plan
from pipeline.training.sampling import Samples
from pipeline.training.schedule import SCHEDULES, Schedule
from pipeline.training.smoothing import SMOOTHINGS, Smoothing

__all__ = [
    "KFAC",
    "METHODS",
    "OPTIMIZERS",
    "SCHEDULES",
    "SMOOTHINGS",
    "EpochRecord",
    "Evaluation",
    "History",
    "KFACSettings",
    "Plan",
    "Recipe",
    "Samples",
    "Schedule",
    "Smoothing",
    "State",
    "evaluate",
    "plan",
    "train",
]
