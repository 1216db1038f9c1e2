"""Facts of a network at half precision."""

from typing import Any, ClassVar

from pydantic import BaseModel

from pipeline.artifacts.results.facts import Facts


class FileBytes(BaseModel):
    """Sizes of the files at both precisions."""

    fp32: int
    fp16: int


class HalfNetworkFacts(Facts):
    """A converted network.

    Attributes:
        run: The training run, or the name of a file of somebody's own.
        seed: That of the training; none for a file.
        n_saturated: Activations of the test samples that were too large for FP16.
        budget_points: Accuracy that the conversion was allowed to cost, in percentage points.
        accuracy: What it cost on the test samples, as `Predictions.summary` tells; none without labels.
    """

    KIND: ClassVar[str] = "half_network"

    run: str
    seed: int | None
    n_saturated: int
    budget_points: float
    file_bytes: FileBytes
    accuracy: dict[str, Any] | None = None


class TimingsFacts(Facts):
    """A converted network timed layer by layer.

    Attributes:
        verification: What the plans lose on the samples that they were chosen with, by batch size.
        accuracy: What they lose on test samples with known classes, by batch size.
    """

    KIND: ClassVar[str] = "timings"

    run: str
    verification: dict[str, dict[str, Any]]
    accuracy: dict[str, dict[str, Any]]


class PlanTest(BaseModel):
    """What a plan makes of the test samples: the errors of its layers, and its answers where classes are known."""

    errors: list[dict[str, Any]]
    n_saturated: int
    accuracy: dict[str, Any] | None
    predictions: dict[str, Any] | None
