"""The quantities of one training run, over its seeds."""

from collections.abc import Callable, Mapping, Sequence

from pipeline.artifacts.results.network import EpochRow, Score
from pipeline.report import formatting as f
from pipeline.report.metrics import Converted, RoleMetrics, RunMetrics, SeedResult
from pipeline.report.spread import Spread

Runs = Mapping[str, RunMetrics]
#: A quantity of a run, over its seeds.
OverSeeds = Callable[[RunMetrics], Spread]

#: Optimizers as papers write them; a user's own optimizer is written as in the study.
OPTIMIZERS = {
    "sgd": "SGD", "schedule_free": "Schedule-free SGD", "lars": "LARS", "adamw": "AdamW", "lamb": "LAMB",
    "muon": "Muon", "soap": "SOAP", "kfac": "K-FAC", "fop": "FOP",
}  # fmt: skip
SECOND_ORDER = ("kfac", "fop")


def runs_of(training: Runs, roles: RoleMetrics | None) -> dict[str, RunMetrics]:
    """The runs that the study's claims compare, by role."""
    return {role: training[name] for role, name in roles or () if name in training}


def histories_of(run: RunMetrics) -> list[list[EpochRow]]:
    """The non-empty histories of a run, one per seed."""
    return [seed.history for seed in run.seeds.values() if seed.history]


def repeated(training: Runs) -> bool:
    """Return whether any run has several seeds, so that means and spreads exist."""
    return any(len(run.seeds) > 1 for run in training.values())


def _quantity(of: Callable[[SeedResult], object]) -> OverSeeds:
    """A quantity of every seed; seeds without it are left out."""
    return lambda run: Spread.of({name: of(seed) for name, seed in run.seeds.items()})


def _percent(score: Score | None) -> float | None:
    return 100.0 * score.accuracy if score and f.is_number(score.accuracy) else None


def _gap(seed: SeedResult) -> float | None:
    test, train = (score and score.loss for score in (seed.test, seed.train))
    return test - train if f.is_number(test) and f.is_number(train) else None


def _share(seed: SeedResult) -> float | None:
    part, whole = seed.history[-1].preconditioner_seconds if seed.history else None, seed.seconds
    return part / whole if f.is_number(part) and f.is_number(whole) and whole else None


# Accuracies at the end, in percent.
accuracy_on_test = _quantity(lambda seed: _percent(seed.test))
accuracy_on_validation = _quantity(lambda seed: _percent(seed.validation))
accuracy_on_train = _quantity(lambda seed: _percent(seed.train))
# Cross entropy on the test samples, and the generalization gap: test loss minus training loss.
loss_on_test = _quantity(lambda seed: seed.test and seed.test.loss)
loss_gap = _quantity(_gap)
# Largest eigenvalue of the Hessian of the training loss, and the rise of that loss under relative weight noise.
curvature = _quantity(lambda seed: seed.sharpness and seed.sharpness.largest_eigenvalue)
noise_rise = _quantity(lambda seed: seed.sharpness and seed.sharpness.perturbation)
# Optimizer steps, seconds of training, and the part of these seconds that the preconditioner took.
n_steps = _quantity(lambda seed: seed.steps)
wall_seconds = _quantity(lambda seed: seed.seconds)
preconditioner_share = _quantity(_share)


def target_loss(run: RunMetrics) -> float | None:
    """The training loss with which a run ends, on average: a target for others."""
    return Spread.of(history[-1].train_loss for history in histories_of(run)).mean


def reached(seed: SeedResult, target: float) -> EpochRow | None:
    """The first epoch that ends with a training loss at or below a target."""
    low = (row for row in seed.history if f.is_number(row.train_loss) and row.train_loss <= target)
    return next(low, None)


def time_until(run: RunMetrics, target: float) -> Spread:
    """Seconds until each seed that gets there has reached a training loss."""
    return _quantity(lambda seed: (row := reached(seed, target)) and row.seconds)(run)


def steps_until(run: RunMetrics, target: float) -> Spread:
    """Optimizer steps until each seed that gets there has reached a training loss."""
    return _quantity(lambda seed: (row := reached(seed, target)) and row.steps)(run)


def alone(run: RunMetrics) -> bool:
    """Return whether no seed of a run is known to have shared its machine with another job of the study."""
    return all(seed.alone is not False for seed in run.seeds.values())


def said_beside(alone: bool | None) -> str:
    """The sentence that marks times measured beside other jobs; empty where there were none or it is not known."""
    if alone is not False:
        return ""
    return "Other jobs of the study ran on the same machine meanwhile, so times may be too long."


def said_of_timings(network: Converted) -> str:
    """The same for a network, whose samples also show work from outside the study."""
    if network.alone is not False:
        return ""
    beside = "Other work ran on the same machine meanwhile"
    return f"{beside}, so times may be too long, and speedups less certain."


def claimed(training: Runs, roles: RoleMetrics | None, most: int) -> Runs:
    """Return all runs, or only those that the claims compare if there are more than ``most``."""
    if len(training) <= most or not roles:
        return training
    compared = [name for _, name in roles]
    return {name: run for name, run in training.items() if name in compared}


def comparable(training: Runs) -> dict[str, RunMetrics]:
    """Return the runs that share the most frequent number of training images."""
    sizes = [run.train_samples for run in training.values()]
    common = max(dict.fromkeys(sizes), key=sizes.count, default=None)
    return {name: run for name, run in training.items() if run.train_samples == common}


def at_chance(accuracy: object, n_classes: int) -> bool:
    """Whether an accuracy (a fraction) is hardly above that of guessing: below 1.5 / ``n_classes``."""
    return n_classes > 1 and f.is_number(accuracy) and accuracy < 1.5 / n_classes


def run_at_chance(run: RunMetrics, n_classes: int) -> bool:
    """Whether a run's mean test accuracy is that of guessing."""
    mean = accuracy_on_test(run).mean
    return mean is not None and at_chance(mean / 100.0, n_classes)


def seeds_that_diverged(run: RunMetrics) -> list[str]:
    """The names of those seeds of a run that diverged."""
    return [name for name, seed in run.seeds.items() if seed.diverged]


def diverged_text(run: RunMetrics) -> str:
    """Which seeds diverged and are left out of the run's means: 1 of 5 seeds, seed 3, diverged; empty for none."""
    names, n_seeds = seeds_that_diverged(run), len(run.seeds)
    if not names:
        return ""
    named = f", {'seed' if len(names) == 1 else 'seeds'} {f.listing(names)}," if len(names) < n_seeds else ""
    return f"{len(names)} of {n_seeds} {'seed' if n_seeds == 1 else 'seeds'}{named} diverged"


def label_with_divergence(name: str, run: RunMetrics) -> str:
    """The page's name of a run whose means are compared, with the seeds that they leave out."""
    return f.with_notes(label_of(name, run), diverged_text(run))


def label_of(name: str, run: RunMetrics | None) -> str:
    """The page's name of a run."""
    return run.label if run is not None and run.label else name


def method_name(run: RunMetrics) -> str:
    """The optimizer's name in words."""
    return OPTIMIZERS.get(run.optimizer, run.optimizer.replace("_", " "))


def method_of(run: RunMetrics) -> str:
    """Optimizer and smoothings in words: K-FAC with mixup and weight noise."""
    optimizer = method_name(run)
    names = (name.split(" (")[0].replace("_", " ") for name in run.smoothing)
    smoothing = f.listing("SAM" if name == "sam" else name for name in names)
    return f"{optimizer} with {smoothing}" if smoothing else optimizer


def spread_text(spread: Spread, decimals: int) -> f.NumberText:
    """Mean ± standard deviation; only the mean for one seed.

    A deviation that would print as zero gets the decimals that its first digit needs; a deviation of zero is 0.
    """
    if spread.sd is None:
        lost = f.is_number(spread.mean) and 0 < abs(spread.mean) < 0.5 * 10**-decimals
        return f.significant(spread.mean) if lost else f.decimal(spread.mean, decimals)
    decimals = f.first_digit(spread.sd, decimals)
    deviation = f.decimal(spread.sd, decimals) if spread.sd > 0 else "0"
    text = f"{f.decimal(spread.mean, decimals)}{f.NO_BREAK_SPACE}±{f.NO_BREAK_SPACE}{deviation}"
    return f.NumberText(text, spread.mean)


def accuracy_text(run: RunMetrics, places: int | None = None, spread: Spread | None = None) -> str:
    """A run's test accuracy, or that of some seeds, and which seeds diverged: 86.44 ± 0.37 %."""
    spread = accuracy_on_test(run) if spread is None else spread
    places = common_decimals([spread], 2) if places is None else places
    text = f"{spread_text(spread, places)}{f.NO_BREAK_SPACE}%" if spread.n else f.DASH
    return f.with_notes(text, diverged_text(run))


def common_decimals(spreads: Sequence[Spread], usual: int) -> int:
    """Decimals for values to be compared, from their middle uncertainty; ``usual`` where there is none."""
    known = sorted(spread.sd for spread in spreads if spread.sd)
    return max(1, min(4, f.decimals_for(known[len(known) // 2], usual))) if known else usual
