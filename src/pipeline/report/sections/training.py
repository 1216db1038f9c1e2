"""The section on training: claims, curves, scores, and the work of the preconditioner."""

from pipeline.report import runs as of
from pipeline.report import tables
from pipeline.report.claims import MARGIN, judge_claims
from pipeline.report.content import Block, Illustration, PageSection, Prose, Verdicts
from pipeline.report.critical_batches import critical_batches
from pipeline.report.drawing import Arrays
from pipeline.report.figures.training import MOST_DRAWN, final_scores, learning_curves, legend
from pipeline.report.formatting import count, percent, plural, with_percent
from pipeline.report.metrics import Metrics, RoleMetrics
from pipeline.report.options import options
from pipeline.report.runs import Runs
from pipeline.report.standings import best_by_batch, standings
from pipeline.report.trials import trials


def training_section(metrics: Metrics, _: Arrays) -> PageSection | None:
    """Show curves and scores, then the claims with their verdicts, then the tables."""
    training, roles = metrics.training, metrics.claims_of
    if not training:
        return None
    n_classes = len(metrics.study.classes)
    shown = of.claimed(training, roles, MOST_DRAWN)
    large = of.runs_of(training, roles).get("large_batch")
    blocks: list[Block | None] = [
        *_figures(training, shown),
        _claims(training, roles),
        tables.final_accuracy(training, n_classes, shown),
        standings(training, roles),
        best_by_batch(training) if roles is not None else None,
        critical_batches(training, metrics.sweeps, metrics.predictions),
        trials(training),
        options(training),
        tables.minima(training, of.target_loss(large) if large else None),
        *(
            tables.methods_by_batch(training, quantity, f"{what} by method and batch{unit}", usual)
            for quantity, what, unit, usual in (
                (of.accuracy_on_test, "Test accuracy", " (%)", 2),
                (of.loss_on_test, "Test loss", "", 3),
                (of.noise_rise, "Rise of the training loss under weight noise,", "", 3),
            )
        ),
        tables.factors(shown),
        _preconditioner(training),
    ]
    lead = (
        f"{plural(len(training), 'run')}; {_best(training, n_classes)}. The trained weights are in "
        f"results/{metrics.study.name}/train, in a folder for each run and seed."
    )
    return PageSection("steps", "Fewer steps", lead, blocks)


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


def _figures(training: Runs, shown: Runs) -> list[Block]:
    several = of.repeated(shown)
    bands = ": lines are means over seeds, bands go from the lowest to the highest seed" if several else ""
    which_shown = "The runs that the claims compare," if len(shown) < len(training) else "All runs"
    curves = f"{which_shown} by epoch and by optimizer step{bands}. Losses are true ones, without smoothing."
    seeds = "Every dot is a seed, every bar a run's mean."
    scores = seeds if of.repeated(training) else "A dot for every run."
    return [
        Illustration(learning_curves(shown), curves, legend(shown), layout="pair"),
        Illustration(final_scores(training, shown), scores, layout="pair"),
    ]


def _best(training: Runs, n_classes: int) -> str:
    """Tell which run is best, on the test samples if there are scores on them."""
    tested = any(of.accuracy_on_test(run).n for run in training.values())
    scored = of.accuracy_on_test if tested else of.accuracy_on_validation
    name, run = max(of.comparable(training).items(), key=lambda item: scored(item[1]).mean or 0.0)
    label, several = of.label_of(name, run), len(training) > 1
    if not tested:
        where = "on the validation set"
        which, where = (f"the best {where} is ", "") if several else ("", f" {where}")
        accuracy = with_percent(scored(run).mean or 0.0, 2)
        return f"{which}{label} with {accuracy}{where}; the test set was not looked at"
    with_accuracy, chance = f"{label} with {of.accuracy_text(run)}", of.run_at_chance(run, n_classes)
    if not several:
        return f"{with_accuracy} on the test set{', no better than chance' if chance else ''}"
    if chance:
        return f"none gets above chance ({percent(1 / n_classes, 0)}), not even {with_accuracy}"
    return f"the best on the test set is {with_accuracy}"


def _preconditioner(training: Runs) -> Prose | None:
    """Counters of K-FAC, summed over seeds."""
    words = []
    for name, run in training.items():
        found = [history[-1] for history in of.histories_of(run)]
        if found and run.optimizer in of.SECOND_ORDER:
            counters = (
                f"{count(sum(one.n_retries for one in found))} retries, {count(sum(one.n_stale for one in found))} "
                f"stale inverses and {count(sum(one.n_skipped for one in found))} skipped steps"
            )
            share = of.preconditioner_share(run).mean
            spent = f", {percent(share, 0)} of the time in steps" if share is not None else ""
            words.append(f"{of.label_of(name, run)}: {counters}{spent}")
    over = ", over all seeds" if of.repeated(training) else ""
    return Prose(f"Preconditioner{over}. {'; '.join(words)}.", quiet=True) if words else None
