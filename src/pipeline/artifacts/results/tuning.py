"""Facts of a training run's trials."""

from pydantic import BaseModel

from pipeline.artifacts.results.facts import Facts
from pipeline.artifacts.results.network import Score


class Trial(BaseModel):
    """One trial.

    Attributes:
        values: The options that were drawn.
        validation: Loss and accuracy on the validation images; none where training diverged.
        seconds: Time of training.
        failure: Why there is no score.
    """

    values: dict[str, float]
    validation: Score | None
    seconds: float
    failure: str = ""


class TuningFacts(Facts):
    """The trials of one training run.

    Attributes:
        chosen: Number of the best trial, from 0.
        values: Its options.
        seed: Seed of all trials.
    """

    run: str
    seed: int
    chosen: int
    values: dict[str, float]
    trials: list[Trial]
