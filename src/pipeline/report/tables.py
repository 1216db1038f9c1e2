"""Tables of the page but those of network layers, one function each, from results to :class:`Table`."""

from collections.abc import Callable, Mapping, Sequence

from pipeline.artifacts.results.network import FactorFigures
from pipeline.artifacts.results.scaling import ScalingRow
from pipeline.report import formatting as f
from pipeline.report.changes import Change
from pipeline.report.content import Bar, Column, Table, TableCell
from pipeline.report.drawing import strokes
from pipeline.report.metrics import MatrixMetrics, RuleCost, RunMetrics
from pipeline.report.runs import (
    Runs,
    accuracy_on_test,
    accuracy_on_train,
    accuracy_on_validation,
    alone,
    common_decimals,
    comparable,
    curvature,
    diverged_text,
    label_of,
    loss_gap,
    loss_on_test,
    method_of,
    n_steps,
    noise_rise,
    repeated,
    run_at_chance,
    said_beside,
    seeds_of,
    spread_text,
    steps_until,
    time_until,
    wall_seconds,
)
from pipeline.report.spread import Power, Spread

#: Marks a time that was not taken alone.
BESIDE = "†"


def final_accuracy(training: Runs, n_classes: int = 0, with_curves: Runs | None = None) -> Table:
    """One row per run: method, cost and final scores as mean ± standard deviation over seeds.

    Runs are marked by the colors of their curves.
    """
    looks = strokes(training, with_curves or {})
    columns: tuple[str | Column, ...] = (
        "Run", Column("Method"), "Batch", Column("Steps", True, "ratio"),
        *(Column(title, True, "difference") for title in ("Train acc. (%)", "Test acc. (%)", "Test loss", "Gap")),
        Column("Time", True, "ratio"), "Seeds",
    )  # fmt: skip
    runs = list(training.items())
    scores = [
        [of(run) for _, run in runs] for of in (accuracy_on_train, accuracy_on_test, loss_on_test, loss_gap)
    ]
    places = [common_decimals(column, usual) for column, usual in zip(scores, (2, 2, 3, 3), strict=True)]
    chance = [run_at_chance(run, n_classes) for _, run in runs]
    rows = tuple(
        (
            _with_warnings(label_of(name, run), run, at_chance=chance[place]),
            method_of(run),
            f.count(run.batch_size),
            f.count(n_steps(run).mean),
            *(spread_text(column[place], decimals) for column, decimals in zip(scores, places, strict=True)),
            _time(run, wall_seconds(run).mean),
            f.count(accuracy_on_test(run).n),
        )
        for place, (name, run) in enumerate(runs)
    )
    return Table.of(
        "Final scores of every run",
        columns,
        rows,
        note=f"{_spread_of_seeds(training)}Gap: test loss minus training loss at the end. Time: "
        f"{'the mean time' if repeated(training) else 'the time'} of training.{_beside(training)}"
        f"{_chance(n_classes) if any(chance) else ''}",
        series=tuple(looks[name].variable for name in training),
    )


def _with_warnings(label: str, run: RunMetrics, *, at_chance: bool) -> str:
    """A run's label and what its means do not tell."""
    diverged = diverged_text(run)
    told = ["at chance"] * at_chance + [diverged] * bool(diverged)
    return f"{label} ({', '.join(told)})" if told else label


def _time(run: RunMetrics, spent: float | None) -> f.NumberText:
    """Write a time, with a mark if other jobs ran on the machine meanwhile."""
    return f.NumberText(f"{f.seconds(spent)}{'' if alone(run) or spent is None else BESIDE}", spent)


def _beside(training: Runs) -> str:
    if all(alone(run) for run in training.values()):
        return ""
    return (
        f" {BESIDE}: other jobs of the study ran on the same machine meanwhile, so this time may be too long."
    )


def methods_by_batch(
    training: Runs,
    quantity: Callable[[RunMetrics], Spread],
    caption: str,
    usual: int,
) -> Table | None:
    """A quantity of all methods (rows) at all batch sizes (columns), where a study crosses the two.

    Runs on another number of images than most are left out; of several with one method and batch the first counts.
    """
    found: dict[tuple[str, int], Spread] = {}
    for run in comparable(training).values():
        found.setdefault((method_of(run), run.batch_size), quantity(run))
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
    columns = ("Method", *(f"Batch {f.count(batch)}" for batch in batches))
    return Table.of(caption, columns, rows, note=_spread_of_seeds(training).rstrip())


def _spread_of_seeds(training: Runs) -> str:
    return "Mean ± standard deviation over seeds. " if repeated(training) else ""


def minima(training: Runs, target: float | None) -> Table | None:
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
            f" Target: the training loss with which large-batch SGD ends, {f.significant(target, 3)}; means are those "
            f"of the seeds that reached it, with a dash where none did.{_beside(training)}"
        )
    caption = "Speed, and the minimum found" if speed else "The minimum found"
    columns: Sequence[str | Column] = (
        "Run",
        *(Column(title, True, compared.get(title, "ratio")) for title in titles),
    )
    return Table.of(caption, columns, rows, note=note)


def _to_target(run: RunMetrics, target: float) -> tuple[str, str]:
    """Time and steps until a training loss was reached, and by how many seeds if not by all."""
    spent, steps = time_until(run, target), steps_until(run, target)
    seeds = f" ({spent.n} of {len(run.seeds)} seeds)" if 0 < spent.n < len(run.seeds) else ""
    return f.NumberText(f"{_time(run, spent.mean)}{seeds}", spent.mean), f.count(steps.mean)


def factors(training: Runs) -> Table | None:
    """K-FAC's curvature of each layer after the last step of each run's first seed."""
    rows = [
        (label_of(name, run), layer, *(f.significant(value, 3) for value in _factors(figures)))
        for name, run in training.items()
        for seed in list(seeds_of(run))[:1]
        if seed.kfac
        for layer, figures in seed.kfac.layers.items()
    ]
    if not rows:
        return None
    columns = ("Run", Column("Layer"), "Pi", "Trace of A", "Condition of A", "Trace of G", "Condition of G")
    return Table.of(
        "Kronecker factors at the end of training",
        columns,
        tuple(rows),
        note="A is the second moment of a layer's inputs, and G that of the gradients at its outputs. Conditions are "
        "those with damping, and pi says how damping is split between the two."
        f"{' All figures are those of the first seed.' if repeated(training) else ''}",
    )


def _factors(figures: FactorFigures) -> tuple[float | None, ...]:
    return figures.pi, figures.trace_A, figures.condition_A, figures.trace_G, figures.condition_G


def _chance(n_classes: int) -> str:
    return f" At chance: below {f.percent(1.5 / n_classes, 0)}, where guessing gives {f.percent(1 / n_classes, 0)}."


def levels(matrix: MatrixMetrics) -> Table | None:
    """Compression, tree level by tree level; levels at which nothing is kept (the upper ones) are left out."""
    found = [row for row in matrix.compress.levels if row.skeletons or row.bytes]
    if not found:
        return None
    columns = ("Level", "Boxes", "Unknowns", "Skeletons", "Kept", "Time", "Storage")
    rows = tuple(
        (
            f.count(row.level), f.count(row.boxes), f.count(row.unknowns), f.count(row.skeletons),
            f.percent(row.skeletons / row.unknowns if row.unknowns else None, 0), f.seconds(row.seconds),
            f.n_bytes(row.bytes),
        )
        for row in found
    )  # fmt: skip
    note = (
        "Unknowns: of all boxes of the level, each of which keeps skeletons among its own. Kept: skeletons divided by "
        f"unknowns. Time: of choosing them. Storage: of the level's blocks. {said_beside(matrix.alone)}"
    )
    return Table.of("Compression, level by level", columns, rows, note=note.rstrip())


def scaling(rows: Sequence[ScalingRow], growth: Mapping[str, Power], beside: str = "") -> Table:
    """Time and storage by N, with fitted exponents and their 95 % intervals in the last row.

    Args:
        rows: One for each N.
        growth: Fitted powers, by the names of the rows' fields.
        beside: The sentence that marks times which were not taken alone.
    """
    body: list[tuple[TableCell, ...]] = [
        (
            f.count(row.n), f.seconds(row.compress_seconds), f.seconds(row.factorize_seconds),
            f.seconds(row.product_seconds), f.seconds(row.solve_seconds), f.n_bytes(row.operator_bytes),
            f.n_bytes(row.factor_bytes), f.scientific(row.relative_error),
        )
        for row in rows
    ]  # fmt: skip
    if growth:
        fitted = (*(f"{work}_seconds" for work in ("compress", "factorize", "product", "solve")),
                  "operator_bytes", "factor_bytes")  # fmt: skip
        body.append(("exponent of N", *(_exponent(growth.get(key)) for key in fitted), ""))
    columns = ("N", "Compress", "Factorize", "Product", "Solve", "Operator", "Factorization", "Error")
    intervals = "The intervals of the exponents are 95 % ones, from the scatter around the fitted line."
    note = " ".join(text for text in (intervals if growth else "", beside) if text)
    return Table.of("Cost against N", columns, body, note=note)


def _exponent(power: Power | None) -> TableCell:
    if power is None:
        return f.DASH
    exponent, interval = power.text.removesuffix(")").split(" (")
    return exponent, interval


def rule_costs(rules: Sequence[RuleCost]) -> Table | None:
    """Where the time went: jobs and seconds by rule, longest first."""
    jobs: dict[str, list[RuleCost]] = {}
    for row in rules:
        jobs.setdefault(row.rule, []).append(row)
    spent = {rule: sum(Spread.of(row.seconds for row in found).values) for rule, found in jobs.items()}
    if not spent:
        return None
    longest, total = max(spent.values()) or 1.0, sum(spent.values()) or 1.0
    rows = tuple(
        (
            rule,
            Bar(length=0.8 * spent[rule] / longest, text=f.seconds(spent[rule])),
            f.percent(spent[rule] / total, 0),
            f.count(len(jobs[rule])),
            _megabytes(max(Spread.of(row.max_rss_mb for row in jobs[rule]).values, default=None)),
        )
        for rule in sorted(spent, key=lambda rule: -spent[rule])
    )
    columns = ("Rule", Column("Time, all jobs"), "Share", "Jobs", "Peak memory")
    return Table.of(
        "Time and memory by rule", columns, rows, note=f"All jobs together: {f.seconds(sum(spent.values()))}."
    )


SHOWN_CHANGES = 25


def changes(rows: Sequence[Change]) -> Table:
    """Figures beyond the noise of past runs, the largest change first."""
    body = tuple(_moved(row) for row in rows[:SHOWN_CHANGES])
    columns = ("Figure", Column("Verdict"), "Now", "Median before", "Expected", "Past runs")
    left = len(rows) - len(body)
    note = "Expected: the 99 % prediction interval of Student's t from the past runs" + (
        f". {f.count(left)} more in metrics.json." if left else "."
    )
    return Table.of("Changed beyond the noise of past runs", columns, body, note=note)


def _moved(row: Change) -> tuple[TableCell, ...]:
    digits = f.told_apart(row.value, row.typical, digits=4)
    return (
        f"{row.artefact} {row.figure}",
        row.verdict,
        f.significant(row.value, digits),
        f.significant(row.typical, digits),
        f"{f.significant(row.low, digits)} to {f.significant(row.high, digits)}",
        f.count(row.n),
    )


def commits(lines: Sequence[str]) -> Table:
    """Commits, each its short name and subject, newest first."""
    rows = tuple((name, subject) for name, _, subject in (line.partition(" ") for line in lines))
    return Table.of("Commits between", ("Commit", Column("Subject")), rows)


def _megabytes(value: float | None) -> str:
    return f.n_bytes(value * 2**20) if value is not None else f.DASH
