"""Facts on the batches from which methods are predicted to lose accuracy."""

from pydantic import BaseModel

from pipeline.artifacts.results import Facts, Number


class SeedPrediction(BaseModel):
    """The prediction from one seed of a run with small batches, and the noise scales of its epochs.

    All are numbers of samples, and None where noise hides the gradient.
    """

    seed: int
    noise_scales: list[Number]
    critical_batch: Number


class Prediction(BaseModel):
    """The prediction from the runs of one method: the geometric mean over their seeds, in samples."""

    run: str
    batch_size: int
    seeds: list[SeedPrediction]
    critical_batch: Number


class CriticalBatchFacts(Facts):
    """Predictions by method."""

    methods: dict[str, Prediction]
