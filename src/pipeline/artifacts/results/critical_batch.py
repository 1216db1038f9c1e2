"""Facts of the batches from which methods are predicted to lose."""

from pydantic import BaseModel

from pipeline.artifacts.results.facts import Facts, Number


class SeedPrediction(BaseModel):
    """What one seed of a run with small batches predicts.

    Attributes:
        noise_scales: Noise scale of each epoch, in samples; none where noise hides the gradient.
        critical_batch: The prediction, in samples; none where noise hid the gradient throughout.
    """

    seed: int
    noise_scales: list[Number]
    critical_batch: Number


class Prediction(BaseModel):
    """What the runs of one method predict.

    Attributes:
        run: The run that measured its noise.
        critical_batch: Geometric mean over the seeds, in samples.
    """

    run: str
    batch_size: int
    seeds: list[SeedPrediction]
    critical_batch: Number


class CriticalBatchFacts(Facts):
    """Predictions by method."""

    methods: dict[str, Prediction]
