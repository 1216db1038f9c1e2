"""Tables of the page but those of network layers, one function each, from metrics to :class:`Table`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.report import formatting as f
from pipeline.report.content import Bar, Cell, Column, Table
from pipeline.report.drawing import stroke
from pipeline.report.runs import (
    accuracy_on_test,
    accuracy_on_train,
    accuracy_on_validation,
    alone,
    common_decimals,
    comparable,
    curvature,
    label_of,
    loss_gap,
    loss_on_test,
    method_of,
    n_steps,
    noise_rise,
    repeated,
    run_at_chance,
    seeds_of,
    spread_text,
    steps_until,
    time_until,
    wall_seconds,
)
from pipeline.report.spread import Power, Spread

Rows = Iterable[Mapping[str, Any]]

#: Marks a time that was not taken alone.
BESIDE = "†"


def final_accuracy(training: Mapping[str, Any], n_classes: int = 0) -> Table:
    """One row per run: method, cost and final scores as mean ± standard deviation over seeds."""
    columns = (
        Column("Run"), Column("Method"), Column("Batch", True), Column("Steps", True, "ratio"),
        *(Column(title, True, "difference") for title in ("Train acc. (%)", "Test acc. (%)", "Test loss", "Gap")),
        Column("Time", True, "ratio"), Column("Seeds", True),
    )  # fmt: skip
    runs = list(training.items())
    scores = [
        [of(run) for _, run in runs] for of in (accuracy_on_train, accuracy_on_test, loss_on_test, loss_gap)
    ]
    places = [common_decimals(column, usual) for column, usual in zip(scores, (2, 2, 3, 3), strict=True)]
    chance = [run_at_chance(run, n_classes) for _, run in runs]
    rows = tuple(
        (
            f"{label_of(name, run)} (at chance)" if chance[place] else label_of(name, run),
            method_of(run),
            f.count(run.get("batch_size")),
            f.count(n_steps(run).mean),
            *(spread_text(column[place], decimals) for column, decimals in zip(scores, places, strict=True)),
            _time(run, wall_seconds(run).mean),
            f.count(accuracy_on_test(run).n),
        )
        for place, (name, run) in enumerate(runs)
    )
    return Table(
        "Final scores of every run",
        columns,
        rows,
        note=f"{_spread_of_seeds(training)}Gap: test loss minus training loss at the end. Time: of training"
        f"{', the mean' if repeated(training) else ''}.{_beside(training)}{_chance(n_classes) if any(chance) else ''}",
        series=tuple(stroke(index).variable for index in range(len(rows))),
    )


def _time(run: Mapping[str, Any], spent: float | None) -> f.Number:
    """A time, marked where other jobs ran beside its own."""
    return f.Number(f"{f.seconds(spent)}{'' if alone(run) or spent is None else BESIDE}", spent)


def _beside(training: Mapping[str, Any]) -> str:
    if all(alone(run) for run in training.values()):
        return ""
    return (
        f" {BESIDE}: other jobs of the study ran on the same machine meanwhile, so that it may be too long."
    )


def methods_by_batch(
    training: Mapping[str, Any],
    quantity: Callable[[Mapping[str, Any]], Spread],
    caption: str,
    usual: int,
) -> Table | None:
    """A quantity of all methods (rows) at all batch sizes (columns), where a study crosses the two.

    Runs on another number of images than most are left out; of several with one method and batch the first counts.
    """
    found: dict[tuple[str, int], Spread] = {}
    for run in comparable(training).values():
        if f.is_number(run.get("batch_size")):
            found.setdefault((method_of(run), run["batch_size"]), quantity(run))
    methods = list(dict.fromkeys(method for method, _ in found))
    batches = sorted({batch for _, batch in found})
    crossed = [method for method in methods if sum((method, batch) in found for batch in batches) > 1]
    if len(batches) < 2 or len(crossed) < 2 or not any(spread.n for spread in found.values()):
        return None
    places = common_decimals(list(found.values()), usual)
    rows = tuple(
        (method, *(spread_text(found.get((method, batch), Spread(())), places) for batch in batches))
        for method in methods
    )
    columns = (Column("Method"), *(Column(f"Batch {f.count(batch)}", True) for batch in batches))
    return Table(caption, columns, rows, note=_spread_of_seeds(training).rstrip())


def _spread_of_seeds(training: Mapping[str, Any]) -> str:
    return "Mean ± standard deviation over seeds. " if repeated(training) else ""


def minima(training: Mapping[str, Any], target: float | None) -> Table | None:
    """One row per run: how fast it reached a training loss, and what its minimum is like."""
    runs = list(training.items())
    if not any(noise_rise(run).n for _, run in runs):
        return None
    speed = ("Time to target", "Steps to target") if target is not None else ()
    titles = (*speed, "Validation acc. (%)", "Largest curvature", "Rise under noise")
    compared = {"Validation acc. (%)": "difference"}
    rows = tuple(
        (
            label_of(name, run),
            *(_to_target(run, target) if target is not None else ()),
            spread_text(accuracy_on_validation(run), 2),
            f.significant(curvature(run).mean, 3),
            f.significant(noise_rise(run).mean, 3),
        )
        for name, run in runs
    )
    note = (
        f"{'Means over seeds. ' if repeated(training) else ''}Curvature: largest eigenvalue of the Hessian of the "
        "training loss at the end; rise: of that loss when every weight matrix gets Gaussian noise of a fifth of its "
        "size."
    )
    if target is not None:
        note += (
            f" Target: the training loss with which large-batch SGD ends, {f.significant(target, 3)}; a dash where no "
            f"seed reached it.{_beside(training)}"
        )
    caption = "Speed, and the minimum found" if speed else "The minimum found"
    columns = (Column("Run"), *(Column(title, True, compared.get(title, "ratio")) for title in titles))
    return Table(caption, columns, rows, note=note)


def _to_target(run: Mapping[str, Any], target: float) -> tuple[str, str]:
    """Time and steps until a training loss was reached."""
    return _time(run, time_until(run, target).mean), f.count(steps_until(run, target).mean)


def factors(training: Mapping[str, Any]) -> Table | None:
    """Layer by layer, what K-FAC knew of the curvature after the last step of each run's first seed."""
    keys = ("pi", "trace_A", "condition_A", "trace_G", "condition_G")
    rows = [
        (label_of(name, run), layer, *(f.significant(figures.get(key), 3) for key in keys))
        for name, run in training.items()
        for seed in list(seeds_of(run))[:1]
        for layer, figures in ((seed.get("kfac") or {}).get("layers") or {}).items()
    ]
    if not rows:
        return None
    titles = ("Pi", "Trace of A", "Condition of A", "Trace of G", "Condition of G")
    columns = (Column("Run"), Column("Layer"), *(Column(title, True) for title in titles))
    return Table(
        "Kronecker factors at the end of training",
        columns,
        tuple(rows),
        note="A: second moment of a layer's inputs; G: of the gradients at its outputs; conditions with damping; pi: "
        f"how damping is split between the two.{' First seed.' if repeated(training) else ''}",
    )


def _chance(n_classes: int) -> str:
    return f" At chance: below {f.percent(1.5 / n_classes, 0)}, where guessing gives {f.percent(1 / n_classes, 0)}."


def levels(matrix: Mapping[str, Any]) -> Table | None:
    """Compression, tree level by tree level; levels at which nothing is kept (the upper ones) are left out."""
    found = [row for row in (matrix.get("compress") or {}).get("levels") or [] if _keeps(row)]
    if not found:
        return None
    titles = ("Boxes", "Unknowns", "Skeletons", "Kept", "Time", "Storage")
    columns = (Column("Level"), *(Column(title, True) for title in titles))
    rows = tuple(
        (
            f.count(row.get("level")), f.count(row.get("boxes")), f.count(row.get("unknowns")),
            f.count(row.get("skeletons")), f.percent(_ratio(row.get("skeletons"), row.get("unknowns")), 0),
            f.seconds(row.get("seconds")), f.n_bytes(row.get("bytes")),
        )
        for row in found
    )  # fmt: skip
    return Table("Compression, level by level", columns, rows)


def _keeps(row: Mapping[str, Any]) -> bool:
    return row.get("skeletons") != 0 or row.get("bytes") != 0


def _ratio(part: object, whole: object) -> float | None:
    return part / whole if f.is_number(part) and f.is_number(whole) and whole else None


def scaling(found: Mapping[str, Any], growth: Mapping[str, Power]) -> Table | None:
    """Time and storage by N, with fitted exponents and their 95 % intervals in the last row."""
    rows = found.get("rows") or []
    if not rows:
        return None
    keys = {
        "compress_seconds": ("Compress", f.seconds), "factorize_seconds": ("Factorize", f.seconds),
        "product_seconds": ("Product", f.seconds), "solve_seconds": ("Solve", f.seconds),
        "operator_bytes": ("Operator", f.n_bytes), "factor_bytes": ("Factorization", f.n_bytes),
    }  # fmt: skip
    body: list[tuple[Cell, ...]] = [
        (
            f.count(row.get("n")),
            *(write(row.get(key)) for key, (_, write) in keys.items()),
            f.scientific(row.get("relative_error")),
        )
        for row in rows
    ]
    if growth:
        body.append(("exponent of N", *(_exponent(growth.get(key)) for key in keys), ""))
    columns = (Column("N"), *(Column(title, True) for title, _ in keys.values()), Column("Error", True))
    note = "Exponents: with their 95 % intervals from the scatter around the fitted line." if growth else ""
    return Table("Cost against N", columns, tuple(body), note=note)


def _exponent(power: Power | None) -> Cell:
    if power is None:
        return f.DASH
    exponent, interval = power.text.removesuffix(")").split(" (")
    return exponent, interval


def rule_costs(rules: Rows) -> Table | None:
    """Where the time went: jobs and seconds by rule, longest first."""
    jobs: dict[str, list[Mapping[str, Any]]] = {}
    for row in rules:
        jobs.setdefault(str(row.get("rule") or f.DASH), []).append(row)
    spent = {rule: sum(Spread.of(row.get("seconds") for row in found).values) for rule, found in jobs.items()}
    if not spent:
        return None
    longest, total = max(spent.values()) or 1.0, sum(spent.values()) or 1.0
    rows = tuple(
        (
            rule,
            Bar(length=0.8 * spent[rule] / longest, text=f.seconds(spent[rule])),
            f.percent(spent[rule] / total, 0),
            f.count(len(jobs[rule])),
            _megabytes(max(Spread.of(row.get("max_rss_mb") for row in jobs[rule]).values, default=None)),
        )
        for rule in sorted(spent, key=lambda rule: -spent[rule])
    )
    columns = (
        Column("Rule"), Column("Time, all jobs"), Column("Share", True), Column("Jobs", True),
        Column("Peak memory", True),
    )  # fmt: skip
    return Table(
        "Time and memory by rule", columns, rows, note=f"All jobs together: {f.seconds(sum(spent.values()))}."
    )


SHOWN_CHANGES = 25


def changes(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Figures beyond the noise of past runs, the largest change first."""
    body = tuple(
        (
            f"{row.get('artefact')} {row.get('figure')}",
            str(row.get("verdict")),
            f.significant(row.get("value"), 4),
            f.significant(row.get("typical"), 4),
            f"{f.significant(row.get('low'), 4)} to {f.significant(row.get('high'), 4)}",
            f.count(row.get("n")),
        )
        for row in rows[:SHOWN_CHANGES]
    )
    columns = (
        Column("Figure"), Column("Verdict"), Column("Now", True), Column("Median before", True),
        Column("Expected", True), Column("Past runs", True),
    )  # fmt: skip
    left = len(rows) - len(body)
    note = "Expected: the 99 % prediction interval of Student's t from the past runs" + (
        f". {f.count(left)} more in metrics.json." if left else "."
    )
    return Table("Changed beyond the noise of past runs", columns, body, note=note)


def commits(lines: Sequence[str]) -> Table:
    """Commits, each its short name and subject, newest first."""
    rows = tuple((name, subject) for name, _, subject in (str(line).partition(" ") for line in lines))
    return Table("Commits between", (Column("Commit"), Column("Subject")), rows)


def _megabytes(value: float | None) -> str:
    return f.n_bytes(value * 2**20) if value is not None else f.DASH
