"""What a training run is asked to do."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from annotated_types import Interval

from pipeline.errors import ConfigError
from pipeline.options import Count, NotNegative, require_bounds
from pipeline.training.augmentation import Augmentation
from pipeline.training.optimizers import Optimizer, ScheduleFree
from pipeline.training.sampling import n_pieces
from pipeline.training.schedule import Constant, Cosine, Schedule
from pipeline.training.smoothing import Smoothing, WeightNoise

TrainingPrecision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(TrainingPrecision)


@dataclass(frozen=True)
class Recipe:
    """One way of training: all that decides the outcome of a run but the network, the samples and the seed.

    A batch is cut into as few micro-batches of equal size as `micro_batch` allows, and they are dealt to the
    processes. The result depends on this size a little, since noise and mixup are drawn for each, but not on the
    number of processes. With fewer micro-batches than processes, some processes idle.

    Attributes:
        optimizer: The method, with its options.
        batch_size: Samples of one step, at most, over all processes.
        epochs: Passes over the training images.
        warmup_epochs: Epochs over which the learning rate rises to its peak.
        micro_batch: Samples of one forward and backward pass, at most; a batch is cut into such pieces.
        smoothing: Smoothings of the objective, applied in order.
        augmentation: Random changes of the training images, applied in order, before any smoothing.
        schedule: Decay of the learning rate after the warm-up.
        coupled_momentum: Let momentum fall with the learning rate.
        rescaled_weights: Keep the norm of weights that are followed by batch normalization.
        n_measured: Number of training samples, the first ones, on which training loss and accuracy are measured.
        precision: Type of activations and their gradients, where autocasting lowers it; weights stay at float32.
        noise_scale: Measure the gradient noise scale from the two halves of every batch.
    """

    optimizer: Optimizer
    batch_size: Count
    epochs: Annotated[int, Interval(ge=0, le=10**6)]
    warmup_epochs: NotNegative = 1.0
    micro_batch: Count = 256
    smoothing: tuple[Smoothing, ...] = ()
    augmentation: tuple[Augmentation, ...] = ()
    schedule: Schedule = field(default_factory=Cosine)
    coupled_momentum: bool = False
    rescaled_weights: bool = False
    n_measured: Count = 4096
    precision: TrainingPrecision = "float32"
    noise_scale: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, Optimizer):
            raise TypeError(
                f"Recipe: optimizer must be an Optimizer such as SGD(lr=0.1), not {self.optimizer!r}"
            )
        if isinstance(self.optimizer, ScheduleFree) and not (
            isinstance(self.schedule, Constant) and not self.coupled_momentum
        ):
            raise ConfigError(
                f"schedule_free keeps its rate and momentum, found schedule {self.schedule.name!r} and "
                f"coupled_momentum {self.coupled_momentum}; set schedule to {{name: constant}} and leave "
                "coupled_momentum out"
            )
        if self.noise_scale and self.batch_size < 2:
            raise ConfigError(
                "noise_scale compares the halves of a batch, found batch_size 1; set it to 2 or more"
            )
        require_bounds(self)
        pieces = n_pieces(self.batch_size, self.micro_batch)
        if (
            self.noise_scale
            and pieces % 4
            and any(isinstance(s, WeightNoise) and s.antithetic for s in self.smoothing)
        ):
            raise ConfigError(
                "noise_scale compares the halves of a batch, and each pair of antithetic weight noise must lie in one "
                f"half: the number of micro-batches must be a multiple of 4, found {pieces}; set micro_batch to "
                f"{-(-self.batch_size // 4)}, or antithetic to false"
            )


@dataclass(frozen=True)
class Plan:
    """How many steps a recipe takes on a training set."""

    steps_per_epoch: int
    n_steps: int
    n_warmup: int


def plan(recipe: Recipe, *, n_samples: int, n_processes: int) -> Plan:
    """Count the steps of a run.

    Raises:
        ConfigError: If a batch is larger than the training set, or smaller than the number of processes.
    """
    if recipe.batch_size > n_samples:
        raise ConfigError(
            f"batch_size is {recipe.batch_size} but there are only {n_samples} training samples; "
            "lower batch_size or train on more samples"
        )
    steps_per_epoch = n_pieces(n_samples, recipe.batch_size)
    smallest = n_samples // steps_per_epoch
    if n_processes > smallest:
        raise ConfigError(
            f"{n_processes} processes cannot share a batch of {smallest} samples; "
            "start fewer processes or raise batch_size"
        )
    n_steps = recipe.epochs * steps_per_epoch
    return Plan(steps_per_epoch, n_steps, min(n_steps, round(recipe.warmup_epochs * steps_per_epoch)))
