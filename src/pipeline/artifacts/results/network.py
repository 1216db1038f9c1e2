"""Facts of a trained network."""

from typing import ClassVar

from pydantic import BaseModel

from pipeline.artifacts.results.facts import Facts, Number


class Score(BaseModel):
    """Mean loss in nats, and the share of right answers."""

    loss: Number
    accuracy: Number


class Flatness(BaseModel):
    """How flat the minimum is; see `pipeline.training.Sharpness`."""

    largest_eigenvalue: Number
    perturbation: Number
    n_samples: int


class Messages(BaseModel):
    """What one process sent by one collective operation."""

    bytes: int
    calls: int


class NetworkFacts(Facts):
    """One training run with one seed.

    Attributes:
        messages: What process 0 has sent since it started, by collective operation, evaluations included.
        threads: Threads of each process.
        seconds: Time of training.
        scores: Loss and accuracy by part of the data set; without "test" while hyper-parameters are chosen.
    """

    KIND: ClassVar[str] = "network"

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
