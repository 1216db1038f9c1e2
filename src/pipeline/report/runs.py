"""The quantities of one training run, over its seeds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.report.formatting import (
    DASH,
    NO_BREAK_SPACE,
    Number,
    decimal,
    decimals_for,
    first_digit,
    is_number,
    listing,
)
from pipeline.report.spread import Spread


def classes_of(metrics: Mapping[str, Any]) -> list[str]:
    """Names of the classes of the study's data; none where they are not known."""
    return list(((metrics.get("study") or {}).get("dataset") or {}).get("classes") or ())


def n_classes_of(metrics: Mapping[str, Any]) -> int:
    """Number of classes of the study's data; 0 where it is not known."""
    return len(classes_of(metrics))


def seeds_of(run: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The results of a run, one per seed."""
    return (run.get("seeds") or {}).values()


def histories_of(run: Mapping[str, Any]) -> list[list[Mapping[str, Any]]]:
    """The non-empty histories of a run, one per seed."""
    return [list(seed["history"]) for seed in seeds_of(run) if seed.get("history")]


def repeated(training: Mapping[str, Any]) -> bool:
    """Whether any run has several seeds, so that there are means and spreads to speak of."""
    return any(len(run.get("seeds") or {}) > 1 for run in training.values())


def accuracy_on_test(run: Mapping[str, Any]) -> Spread:
    """Accuracy on the test samples, in percent."""
    return _percent((seed.get("test") or {}).get("accuracy") for seed in seeds_of(run))


def accuracy_on_validation(run: Mapping[str, Any]) -> Spread:
    """Accuracy on the validation samples after training, in percent."""
    return _percent((seed.get("validation") or {}).get("accuracy") for seed in seeds_of(run))


def accuracy_on_train(run: Mapping[str, Any]) -> Spread:
    """Accuracy on the training samples after training, in percent."""
    return _percent((seed.get("train") or {}).get("accuracy") for seed in seeds_of(run))


def loss_on_test(run: Mapping[str, Any]) -> Spread:
    """Cross entropy on the test samples."""
    return Spread.of((seed.get("test") or {}).get("loss") for seed in seeds_of(run))


def loss_gap(run: Mapping[str, Any]) -> Spread:
    """Test loss minus training loss, seed by seed: the generalization gap."""
    pairs = (
        ((seed.get("test") or {}).get("loss"), (seed.get("train") or {}).get("loss"))
        for seed in seeds_of(run)
    )
    return Spread.of(test - train for test, train in pairs if is_number(test) and is_number(train))


def curvature(run: Mapping[str, Any]) -> Spread:
    """Largest eigenvalue of the Hessian of the training loss at the end."""
    return Spread.of((seed.get("sharpness") or {}).get("largest_eigenvalue") for seed in seeds_of(run))


def noise_rise(run: Mapping[str, Any]) -> Spread:
    """Rise of the training loss under relative weight noise at the end."""
    return Spread.of((seed.get("sharpness") or {}).get("perturbation") for seed in seeds_of(run))


def preconditioner_share(run: Mapping[str, Any]) -> Spread:
    """The part of a run's seconds that its preconditioner took."""
    pairs = (
        ((seed.get("phases") or {}).get("preconditioner"), seed.get("seconds")) for seed in seeds_of(run)
    )
    return Spread.of(part / whole for part, whole in pairs if is_number(part) and is_number(whole) and whole)


def target_loss(run: Mapping[str, Any]) -> float | None:
    """The training loss with which a run ends, on average: a target for others."""
    return Spread.of(history[-1].get("train_loss") for history in histories_of(run)).mean


def steps_to(seed: Mapping[str, Any], target: float, key: str = "steps") -> float | None:
    """Steps (or another count) at the end of the first epoch with a training loss at or below a target."""
    for epoch in seed.get("history") or []:
        loss = epoch.get("train_loss")
        if is_number(loss) and loss <= target:
            found: float | None = epoch.get(key)
            return found
    return None


def time_until(run: Mapping[str, Any], target: float) -> Spread:
    """Seconds until each seed that gets there has reached a training loss."""
    return Spread.of(steps_to(seed, target, "seconds") for seed in seeds_of(run))


def steps_until(run: Mapping[str, Any], target: float) -> Spread:
    """Optimizer steps until each seed that gets there has reached a training loss."""
    return Spread.of(steps_to(seed, target) for seed in seeds_of(run))


def alone(run: Mapping[str, Any]) -> bool:
    """Whether no other job of the study ran beside any seed of a run; where that is not known, none is said to."""
    return all(seed.get("alone") is not False for seed in seeds_of(run))


def claimed(training: Mapping[str, Any], roles: Mapping[str, Any] | None, most: int) -> Mapping[str, Any]:
    """All runs, or of more than ``most`` those that the claims compare: more curves than that nobody tells apart."""
    if len(training) <= most or not roles:
        return training
    return {name: run for name, run in training.items() if name in roles.values()}


def comparable(training: Mapping[str, Any]) -> dict[str, Any]:
    """The runs on that number of training images which most runs have; the first of several that most have."""
    sizes = [run.get("train_samples") for run in training.values()]
    common = max(dict.fromkeys(sizes), key=sizes.count, default=None)
    return {name: run for name, run in training.items() if run.get("train_samples") == common}


def n_steps(run: Mapping[str, Any]) -> Spread:
    """Optimizer steps."""
    return Spread.of(seed.get("steps") for seed in seeds_of(run))


def wall_seconds(run: Mapping[str, Any]) -> Spread:
    """Seconds of training."""
    return Spread.of(seed.get("seconds") for seed in seeds_of(run))


def at_chance(accuracy: object, n_classes: int) -> bool:
    """Whether an accuracy (a fraction) is hardly above that of guessing: below 1.5 / ``n_classes``."""
    return n_classes > 1 and is_number(accuracy) and accuracy < 1.5 / n_classes


def run_at_chance(run: Mapping[str, Any], n_classes: int) -> bool:
    """Whether a run's mean test accuracy is that of guessing."""
    mean = accuracy_on_test(run).mean
    return mean is not None and at_chance(mean / 100.0, n_classes)


def _percent(fractions: Iterable[object]) -> Spread:
    return Spread.of(100.0 * value if is_number(value) else None for value in fractions)


def label_of(name: str, run: Mapping[str, Any]) -> str:
    """What the page calls a run."""
    return str(run.get("label") or name)


def method_of(run: Mapping[str, Any]) -> str:
    """Optimizer and smoothings in words: K-FAC with mixup and weight noise."""
    optimizer = str(run.get("optimizer") or DASH).upper().replace("KFAC", "K-FAC")
    names = (str(name).split(" (")[0].replace("_", " ") for name in run.get("smoothing") or [])
    smoothing = listing("SAM" if name == "sam" else name for name in names)
    return f"{optimizer} with {smoothing}" if smoothing else optimizer


def spread_text(spread: Spread, decimals: int) -> Number:
    """Mean ± standard deviation; only the mean for one seed.

    A deviation that would print as zero gets as many decimals as its first digit needs.
    """
    if spread.sd is None:
        return decimal(spread.mean, decimals)
    decimals = first_digit(spread.sd, decimals)
    text = f"{decimal(spread.mean, decimals)}{NO_BREAK_SPACE}±{NO_BREAK_SPACE}{decimal(spread.sd, decimals)}"
    return Number(text, spread.mean)


def accuracy_text(run: Mapping[str, Any], places: int | None = None) -> str:
    """A run's test accuracy with its spread: 86.44 ± 0.37 %."""
    spread = accuracy_on_test(run)
    places = common_decimals([spread], 2) if places is None else places
    return f"{spread_text(spread, places)}{NO_BREAK_SPACE}%" if spread.n else DASH


def common_decimals(spreads: Sequence[Spread], usual: int) -> int:
    """Decimals for values to be compared, from their middle uncertainty; ``usual`` where there is none."""
    known = sorted(spread.sd for spread in spreads if spread.sd)
    return max(1, min(4, decimals_for(known[len(known) // 2], usual))) if known else usual
