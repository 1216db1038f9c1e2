"""The table of trials: how the options of each run were chosen."""

from collections.abc import Mapping
from statistics import median

from pipeline.artifacts.results.tuning import Trial, TuningFacts
from pipeline.report.content import Table
from pipeline.report.formatting import DASH, count, listing, plural, seconds, significant, with_percent
from pipeline.report.runs import Runs, label_of


def trials(training: Runs) -> Table:
    """One row per run whose options were chosen by trials, with its trials folded below."""
    tuned = [(label_of(name, run), run.tuning) for name, run in training.items() if run.tuning is not None]
    n_repeats = max((len(tuning.trials[tuning.chosen].repeats) for _, tuning in tuned), default=0)
    repeated = (
        f" The two best trials of each run were trained with {plural(n_repeats, 'further seed')}, and the better mean "
        "was chosen. The median is that of the first seed."
    )
    note = (
        "All runs had the same number of trials and of searched options, drawn at the same points of their "
        "ranges. Each trial is a whole training with a seed of its own. The trial with the best accuracy on validation "
        "images was chosen."
    )
    return Table(
        "Trials from which the options were chosen",
        ("Run", "Trials", "Diverged", "Chosen trial's validation acc.", "Median trial's", "Time"),
        [_row(label, tuning) for label, tuning in tuned],
        f"{note}{repeated if n_repeats else ''}",
        details=[
            (
                ("Chosen", f"trial {tuning.chosen + 1}: {_values(tuning.values)}"),
                *((f"Trial {number}", _in_words(trial)) for number, trial in enumerate(tuning.trials, 1)),
            )
            for _, tuning in tuned
        ],
        fold=True,
    )


def _row(label: str, tuning: TuningFacts) -> tuple[str, ...]:
    scores = [trial.validation for trial in tuning.trials if trial.validation]
    first = [score.accuracy for score in scores if score.accuracy is not None]
    chosen = tuning.trials[tuning.chosen].mean()
    return (
        label,
        count(len(tuning.trials)),
        count(sum(trial.mean() is None for trial in tuning.trials)),
        with_percent(100 * chosen.accuracy, 2) if chosen and chosen.accuracy is not None else DASH,
        with_percent(100 * median(first), 2) if first else DASH,
        seconds(sum(trial.seconds for trial in tuning.trials)),
    )


def _in_words(trial: Trial) -> str:
    scores = [score for score in (trial.validation, *trial.repeats) if score is not None]
    found = [DASH if score.accuracy is None else with_percent(100 * score.accuracy, 2) for score in scores]
    return f"{_values(trial.values)}: {listing([*found, *(['diverged'] if trial.failure else [])])}"


def _values(values: Mapping[str, float]) -> str:
    return listing(f"{option} {significant(value, 3)}" for option, value in values.items())
