"""The section on training: claims, curves, scores, and what the preconditioner had to do."""

from collections.abc import Mapping

import numpy as np

from pipeline.report import tables
from pipeline.report.claims import MARGIN, judge_claims
from pipeline.report.content import Block, Illustration, PageSection, Prose, Table, Verdicts
from pipeline.report.critical_batches import critical_batches
from pipeline.report.figures.training import MOST_DRAWN, final_scores, learning_curves, legend
from pipeline.report.formatting import count, percent, plural, with_percent
from pipeline.report.metrics import Metrics, RoleMetrics
from pipeline.report.options import options
from pipeline.report.runs import (
    Runs,
    accuracy_on_test,
    accuracy_on_validation,
    accuracy_text,
    claimed,
    comparable,
    label_of,
    loss_on_test,
    n_classes_of,
    noise_rise,
    preconditioner_share,
    repeated,
    run_at_chance,
    runs_of,
    seeds_of,
    target_loss,
)
from pipeline.report.standings import best_by_batch, standings
from pipeline.report.trials import trials


def training_section(metrics: Metrics, _: Mapping[str, np.ndarray]) -> PageSection | None:
    """Show curves and scores, then the claims with their verdicts, then the tables."""
    training, roles = metrics.training, metrics.claims_of
    if not training:
        return None
    n_classes = n_classes_of(metrics)
    swept = critical_batches(training, metrics.sweeps, metrics.predictions)
    blocks = [
        *_figures(training, roles),
        _claims(training, roles),
        *_tables(training, roles, swept, n_classes),
    ]
    lead = (
        f"{plural(len(training), 'run')}; {_best(training, n_classes)}. The trained weights are in "
        f"results/{metrics.study.name}/train, in a folder for each run and seed."
    )
    return PageSection("steps", "Fewer steps", lead, tuple(block for block in blocks if block is not None))


def _claims(training: Runs, roles: RoleMetrics | None) -> Verdicts | None:
    claims = judge_claims(training, roles)
    if not claims:
        return None
    note = (
        "Verdicts: a difference counts if its 90 % interval lies wholly on one side (Student's t of the differences "
        "seed by seed, over the seeds that both runs have). "
        f"A claim of several differences holds if all do. “At the level of” allows {MARGIN:g} percentage points. "
        "One seed leaves a claim undecided, and no claim holds for a run if one of its seeds diverged."
    )
    return Verdicts(tuple((c.statement, c.verdict, c.evidence) for c in claims), note)


def _figures(training: Runs, roles: RoleMetrics | None) -> list[Block]:
    shown = claimed(training, roles, MOST_DRAWN)
    which_shown = "The runs that the claims compare," if len(shown) < len(training) else "All runs"
    blocks: list[Block] = []
    panels = learning_curves(shown)
    if panels:
        caption = (
            f"{which_shown} by epoch and by optimizer step{_bands(shown)}. "
            "Losses are true ones, without smoothing."
        )
        blocks.append(Illustration(tuple(panels), caption, legend(shown)))
    scores = final_scores(training, shown)
    if scores:
        caption = (
            "Every dot is a seed, every bar a run's mean." if repeated(training) else "A dot for every run."
        )
        blocks.append(Illustration(tuple(scores), caption))
    return blocks


def _tables(
    training: Runs, roles: RoleMetrics | None, swept: Table | None, n_classes: int
) -> list[Table | Prose | None]:
    large = runs_of(training, roles).get("large_batch")
    crossed = (
        (accuracy_on_test, "Test accuracy by method and batch (%)", 2),
        (loss_on_test, "Test loss by method and batch", 3),
        (noise_rise, "Rise of the training loss under weight noise, by method and batch", 3),
    )
    return [
        tables.final_accuracy(training, n_classes, claimed(training, roles, MOST_DRAWN)),
        standings(training, roles),
        best_by_batch(training) if roles is not None else None,
        swept,
        trials(training),
        options(training),
        tables.minima(training, target_loss(large) if large else None),
        *(tables.methods_by_batch(training, of, caption, usual) for of, caption, usual in crossed),
        tables.factors(claimed(training, roles, MOST_DRAWN)),
        _preconditioner(training),
    ]


def _bands(training: Runs) -> str:
    if not repeated(training):
        return ""
    return ": lines are means over seeds, bands go from the lowest to the highest seed"


def _best(training: Runs, n_classes: int) -> str:
    """Tell which run is best, on the test samples if there are scores on them."""
    if not any(accuracy_on_test(run).n for run in training.values()):
        found = {name: accuracy_on_validation(run).mean or 0.0 for name, run in comparable(training).items()}
        name = max(found, key=lambda key: found[key])
        which = "the best on the validation set is " if len(training) > 1 else ""
        where = "" if which else " on the validation set"
        return (
            f"{which}{label_of(name, training[name])} with {with_percent(found[name], 2)}{where}; the test set was "
            "not looked at"
        )
    best = max(comparable(training).items(), key=lambda item: accuracy_on_test(item[1]).mean or 0.0)
    with_accuracy = f"{label_of(*best)} with {accuracy_text(best[1])}"
    if len(training) == 1:
        chance = run_at_chance(best[1], n_classes)
        return f"{with_accuracy} on the test set{', no better than chance' if chance else ''}"
    which = "the best on the test set is"
    if run_at_chance(best[1], n_classes):
        which = f"none gets above chance ({percent(1 / n_classes, 0)}), not even"
    return f"{which} {with_accuracy}"


def _preconditioner(training: Runs) -> Prose | None:
    """Counters of K-FAC, summed over seeds."""
    words = []
    for name, run in training.items():
        found = [seed.kfac for seed in seeds_of(run) if seed.kfac]
        if found:
            counters = (
                f"{count(sum(one.n_retries for one in found))} retries, {count(sum(one.n_stale for one in found))} "
                f"stale inverses and {count(sum(one.n_skipped for one in found))} skipped steps"
            )
            share = preconditioner_share(run).mean
            spent = f", {percent(share, 0)} of the time in steps" if share is not None else ""
            words.append(f"{label_of(name, run)}: {counters}{spent}")
    over = ", over all seeds" if repeated(training) else ""
    return Prose(f"Preconditioner{over}. {'; '.join(words)}.", quiet=True) if words else None
