"""The table of trials: how the options of each run were chosen."""

from statistics import median

from pipeline.report.content import Table
from pipeline.report.formatting import count, listing, plural, seconds, significant, with_percent
from pipeline.report.runs import Runs, label_of


def trials(training: Runs) -> Table | None:
    """One row per run whose options trials chose."""
    rows = []
    details = []
    n_repeats = 0
    for name, run in training.items():
        tuning = run.tuning
        if tuning is None:
            continue
        scores = [mean.accuracy for trial in tuning.trials if (mean := trial.mean()) and mean.accuracy]
        chosen = tuning.trials[tuning.chosen]
        n_repeats = max(n_repeats, len(chosen.repeats))
        values = listing(f"{option} {significant(value, 3)}" for option, value in tuning.values.items())
        rows.append(
            (
                label_of(name, run),
                count(len(tuning.trials)),
                count(len(tuning.trials) - len(scores)),
                with_percent(100 * (score.accuracy or 0.0 if (score := chosen.mean()) else 0.0), 2),
                with_percent(100 * median(scores or [0.0]), 2),
                seconds(sum(trial.seconds for trial in tuning.trials)),
            )
        )
        details.append((("Chosen", values),))
    if not rows:
        return None
    return Table.of(
        "Trials that chose the options",
        ("Run", "Trials", "Diverged", "Best on validation", "Median", "Time"),
        tuple(rows),
        note="All runs had the same number of trials and of searched options, drawn at the same points of their "
        "ranges. Each trial is a whole training with a seed of its own; the best accuracy on validation images was "
        f"chosen.{_repeated(n_repeats)}",
        details=tuple(details),
    )


def _repeated(n_repeats: int) -> str:
    if not n_repeats:
        return ""
    return (
        f" The two best trials of each run were trained with {plural(n_repeats, 'further seed')}, and the better mean "
        "was chosen."
    )
