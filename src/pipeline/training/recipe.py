"""What a training run is asked to do."""

from dataclasses import dataclass, field, fields

from pipeline.errors import ConfigError
from pipeline.training.augmentation import Augmentation
from pipeline.training.optimizers import METHODS, OPTIMIZERS, Optimizer
from pipeline.training.sampling import n_pieces
from pipeline.training.schedule import Cosine, Schedule
from pipeline.training.settings import KFACSettings
from pipeline.training.smoothing import Smoothing

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a run but the network, the samples and the seed.

    Attributes:
        optimizer: A key of `OPTIMIZERS`, or "kfac": "sgd" after preconditioning.
        lr: The rate after the warm-up.
        momentum: Decay of the mean of gradients.
        weight_decay: Pull on weight matrices towards zero, not on biases and normalizations.
        second_moment: Decay of the mean of squared gradients, for optimizers that have one.
        trust: Of "lars", see `LARS`.
        batch_size: The most samples of a step, over all processes; an epoch is cut into as few equal
            batches as this allows.
        epochs: Passes over the training samples.
        warmup_epochs: How long the rate rises linearly from zero.
        micro_batch: The most samples of one forward and backward pass; a batch is cut into as few equal
            ones as this allows and they are dealt to the processes. The result depends on it a little
            (noise and mixup are drawn per micro-batch), but not on the number of processes. Where there are
            fewer micro-batches than processes, some processes idle.
        smoothing: Applied in order.
        augmentation: Applied in order, before any smoothing.
        kfac: Needed by the optimizer "kfac".
        schedule: The decay of the rate after the warm-up.
        coupled_momentum: Whether momentum falls with the rate.
        rescaled_weights: Whether weights that batch normalization follows keep their length.
        n_measured: How many training samples, the first ones, the training loss and accuracy are measured on.
        precision: "float32", or "bfloat16" or "float16" for what autocasting lowers; weights stay as they are.
    """

    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    micro_batch: int = 256
    smoothing: tuple[Smoothing, ...] = ()
    augmentation: tuple[Augmentation, ...] = ()
    kfac: KFACSettings | None = None
    schedule: Schedule = field(default_factory=Cosine)
    coupled_momentum: bool = False
    rescaled_weights: bool = False
    second_moment: float = 0.999
    trust: float = 2e-2
    n_measured: int = 4096
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.optimizer not in METHODS:
            raise ConfigError(f"there is no optimizer {self.optimizer!r}; choose one of {', '.join(METHODS)}")
        if (self.optimizer == "kfac") != (self.kfac is not None):
            raise ConfigError("settings of K-FAC belong to the optimizer 'kfac', and only to it")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"there is no precision {self.precision!r}; choose one of {', '.join(PRECISIONS)}"
            )
        if min(self.batch_size, self.micro_batch, self.n_measured) < 1 or self.epochs < 0:
            raise ValueError("batch_size, micro_batch and n_measured must be positive, epochs not negative")

    @property
    def first_order(self) -> Optimizer:
        """The first-order optimizer, with those of the options that it takes."""
        kind = OPTIMIZERS[self.optimizer if self.kfac is None else "sgd"]
        return kind(**{field.name: getattr(self, field.name) for field in fields(kind)})


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
