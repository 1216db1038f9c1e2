"""Facts of a trained network, the rows of its history, and K-FAC's state of its layers."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator

from pipeline.artifacts.results import Facts, Number

#: A number in a cell of a table; an empty cell is None.
OptionalNumber = Annotated[Number, BeforeValidator(lambda text: None if text == "" else text)]


class Score(BaseModel):
    """Mean loss in nats, and the share of right answers."""

    loss: Number
    accuracy: Number


class Flatness(BaseModel):
    """How flat the minimum is; see `pipeline.training.Sharpness`."""

    largest_eigenvalue: Number = None
    perturbation: Number = None
    n_samples: int = 0


class Messages(BaseModel):
    """Messages of one process in one kind of collective operation."""

    bytes: int
    calls: int


class NetworkFacts(Facts):
    """One training run with one seed.

    Attributes:
        messages: Messages that process 0 has sent since it started, by collective operation, evaluations included.
        scores: Loss and accuracy by part of the data set; without "test" while hyper-parameters are chosen; empty where
            training diverged.
        failure: How training diverged; empty where it did not. A network that diverged has no weights.
    """

    run: str
    seed: int
    processes: int
    messages: dict[str, Messages]
    threads: int
    device: str
    n_parameters: int
    seconds: float
    steps: int
    scores: dict[str, Score]
    sharpness: Flatness
    peak_memory_bytes: int
    failure: str = ""


class EpochRow(BaseModel):
    """The state of a training run after an epoch; see `pipeline.training.loop.EpochRecord`.

    Attributes:
        seconds: Time of training since the start; the fields below are parts of it.
        n_retries: How often K-FAC tried again; the fields that follow, up to the ages in steps, are K-FAC's too.
        noise_variance: The gradient noise of a sample, where it was measured.
        noise_square: Squared norm of the true gradient, in the same metric.
    """

    epoch: int
    steps: int
    seconds: OptionalNumber
    train_loss: OptionalNumber
    train_accuracy: OptionalNumber
    validation_loss: OptionalNumber
    validation_accuracy: OptionalNumber
    gap: OptionalNumber
    n_retries: int
    n_stale: int
    n_skipped: int
    step_size: OptionalNumber
    damping: OptionalNumber
    factor_age: OptionalNumber
    inverse_age: OptionalNumber
    gradient_seconds: OptionalNumber
    preconditioner_seconds: OptionalNumber
    evaluation_seconds: OptionalNumber
    noise_variance: OptionalNumber = None
    noise_square: OptionalNumber = None


class FactorFigures(BaseModel):
    """Kronecker factors of a layer: traces, condition numbers with damping, and the split of damping between them."""

    pi: Number = None
    trace_A: Number = None
    condition_A: Number = None
    trace_G: Number = None
    condition_G: Number = None
