"""Facts of a training run's trials."""

from statistics import fmean

from pydantic import BaseModel

from pipeline.artifacts.results import Facts
from pipeline.artifacts.results.network import Score


class Trial(BaseModel):
    """One trial.

    Attributes:
        validation: Loss and accuracy on the validation images; none where training diverged.
        repeats: Loss and accuracy with further seeds; only the best trials have any.
        failure: Why training diverged with one of its seeds; empty where it did not.
    """

    values: dict[str, float]
    validation: Score | None
    repeats: list[Score] = []
    seconds: float
    failure: str = ""

    @property
    def n_trainings(self) -> int:
        """How many trainings there were, those that diverged included."""
        return 1 + len(self.repeats) + bool(self.validation is not None and self.failure)

    def mean(self) -> Score | None:
        """The mean score over the seeds; None where training diverged with one of them."""
        if self.validation is None or self.failure:
            return None
        scores = [self.validation, *self.repeats]
        losses = [score.loss for score in scores if score.loss is not None]
        return Score(
            loss=fmean(losses) if len(losses) == len(scores) else None,
            accuracy=fmean(score.accuracy or 0.0 for score in scores),
        )


class TuningFacts(Facts):
    """The trials of one training run: `chosen` is the best one's number, from 0, and further seeds follow on `seed`."""

    run: str
    seed: int
    chosen: int
    values: dict[str, float]
    trials: list[Trial]
