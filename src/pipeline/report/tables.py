"""Tables of the page except those of network layers, one function each, from results to :class:`Table`."""

from collections.abc import Mapping, Sequence

from pipeline.artifacts.results.scaling import ScalingRow
from pipeline.report import formatting as f
from pipeline.report import runs as of
from pipeline.report.changes import Change
from pipeline.report.content import Bar, Column, Table, TableCell
from pipeline.report.drawing import strokes
from pipeline.report.figures.growth import SIZES, TIMES
from pipeline.report.metrics import MatrixMetrics, RuleCost, RunMetrics
from pipeline.report.runs import Runs, repeated
from pipeline.report.spread import Power, Spread

#: Marks a time that was measured beside other jobs.
BESIDE = "†"


def final_accuracy(training: Runs, n_classes: int = 0, with_curves: Runs | None = None) -> Table:
    """One row per run: method, cost and final scores as mean ± standard deviation over seeds.

    Runs are marked by the colors of their curves.
    """
    looks = strokes(training, with_curves or {})
    titles: Sequence[str | Column] = (
        "Run", Column("Method"), "Batch", Column("Steps", True, "ratio"),
        *(Column(title, True, "difference") for title in ("Train acc. (%)", "Test acc. (%)", "Test loss", "Gap")),
        Column("Time", True, "ratio"), "Seeds",
    )  # fmt: skip
    scores = {of.accuracy_on_train: 2, of.accuracy_on_test: 2, of.loss_on_test: 3, of.loss_gap: 3}
    places = {
        score: of.common_decimals([score(run) for run in training.values()], usual)
        for score, usual in scores.items()
    }
    chance = {name: "at chance" for name, run in training.items() if of.run_at_chance(run, n_classes)}
    rows = [
        (
            f.with_notes(of.label_of(name, run), chance.get(name, ""), of.diverged_text(run)),
            of.method_of(run),
            f.count(run.batch_size),
            f.count(of.n_steps(run).mean),
            *(of.spread_text(score(run), decimals) for score, decimals in places.items()),
            _time(run, of.wall_seconds(run).mean),
            f.count(of.accuracy_on_test(run).n),
        )
        for name, run in training.items()
    ]
    note = f.sentences(
        _spread_of_seeds(training),
        "Gap: test loss minus training loss at the end.",
        f"Time: {'the mean time' if repeated(training) else 'the time'} of training.",
        _beside(training),
        f"At chance: below {f.percent(1.5 / n_classes, 0)}, where guessing gives {f.percent(1 / n_classes, 0)}."
        if chance
        else "",
    )
    series = [looks[name].variable for name in training]
    return Table("Final scores of every run", titles, rows, note, series)


def _time(run: RunMetrics, spent: float | None) -> f.NumberText:
    """Write a time, with a mark if other jobs ran on the machine meanwhile."""
    return f.NumberText(f"{f.seconds(spent)}{'' if of.alone(run) or spent is None else BESIDE}", spent)


def _beside(training: Runs) -> str:
    if all(of.alone(run) for run in training.values()):
        return ""
    beside = "other jobs of the study ran on the same machine meanwhile"
    return f"{BESIDE}: {beside}, so this time may be too long."


def methods_by_batch(training: Runs, quantity: of.OverSeeds, caption: str, usual: int) -> Table | None:
    """A quantity for all methods (rows) at all batch sizes (columns), for studies that combine the two.

    Only runs on the most frequent number of images count, and the first of several with one method and batch.
    """
    found: dict[tuple[str, int], Spread] = {}
    for run in of.comparable(training).values():
        found.setdefault((of.method_of(run), run.batch_size), quantity(run))
    methods = list(dict.fromkeys(method for method, _ in found))
    batches = sorted({batch for _, batch in found})
    crossed = [method for method in methods if sum((method, batch) in found for batch in batches) > 1]
    if len(batches) < 2 or len(crossed) < 2 or not any(spread.n for spread in found.values()):
        return None
    places = of.common_decimals(list(found.values()), usual)
    rows = [
        (method, *(of.spread_text(found.get((method, batch), Spread({})), places) for batch in batches))
        for method in methods
    ]
    titles = ("Method", *(f"Batch {f.count(batch)}" for batch in batches))
    return Table(caption, titles, rows, _spread_of_seeds(training))


def _spread_of_seeds(training: Runs) -> str:
    return "Mean ± standard deviation over seeds." if repeated(training) else ""


def minima(training: Runs, target: float | None) -> Table | None:
    """One row per run: how fast it reached a training loss, and the properties of its minimum."""
    if not any(of.noise_rise(run).n for run in training.values()):
        return None
    speed = ("Time to target", "Steps to target") if target is not None else ()
    titles: Sequence[str | Column] = (
        "Run",
        *(Column(title, True, "ratio") for title in speed),
        Column("Validation acc. (%)", True, "difference"),
        *(Column(title, True, "ratio") for title in ("Largest curvature", "Rise under noise")),
    )
    rows = [
        (
            of.label_of(name, run),
            *(_to_target(run, target) if target is not None else ()),
            of.spread_text(of.accuracy_on_validation(run), 2),
            f.significant(of.curvature(run).mean, 3),
            f.significant(of.noise_rise(run).mean, 3),
        )
        for name, run in training.items()
    ]
    note = f.sentences(
        "Means over seeds." if repeated(training) else "",
        "Largest curvature: the largest eigenvalue of the Hessian of the training loss at the end. Rise under noise: "
        "the rise of that loss when every weight matrix gets Gaussian noise of a fifth of its size.",
        f"Target: the training loss with which large-batch SGD ends, {f.significant(target, 3)}. Means are those "
        "of the seeds that reached it, with a dash where none did."
        if speed
        else "",
        _beside(training) if speed else "",
    )
    return Table("Speed, and the minimum found" if speed else "The minimum found", titles, rows, note)


def _to_target(run: RunMetrics, target: float) -> tuple[str, str]:
    """Time and steps until a training loss was reached, and by how many seeds if not by all."""
    spent, steps = of.time_until(run, target), of.steps_until(run, target)
    seeds = f" ({spent.n} of {len(run.seeds)} seeds)" if 0 < spent.n < len(run.seeds) else ""
    return f.NumberText(f"{_time(run, spent.mean)}{seeds}", spent.mean), f.count(steps.mean)


def factors(training: Runs) -> Table:
    """K-FAC's curvature of each layer after the last step of each run's first seed."""
    return Table(
        "Kronecker factors at the end of training",
        ("Run", Column("Layer"), "Pi", "Trace of A", "Condition of A", "Trace of G", "Condition of G"),
        [
            (
                of.label_of(name, run), layer, f.significant(found.pi, 3), f.significant(found.trace_A, 3),
                f.significant(found.condition_A, 3), f.significant(found.trace_G, 3),
                f.significant(found.condition_G, 3),
            )
            for name, run in training.items()
            for seed in list(run.seeds.values())[:1]
            for layer, found in seed.layers.items()
        ],
        "A is the second moment of a layer's inputs, and G that of the gradients at its outputs. Condition "
        "numbers are those with damping. Pi says how damping is split between the two."
        f"{' All figures are those of the first seed.' if repeated(training) else ''}",
    )  # fmt: skip


def levels(matrix: MatrixMetrics) -> Table:
    """Compression, tree level by tree level; levels at which nothing is kept (the upper ones) are left out."""
    note = (
        "Unknowns: those of all boxes of the level, each of which keeps some of its own as skeletons. Kept: skeletons "
        "divided by unknowns. Time: the time to choose skeletons. Storage: that of the level's blocks."
    )
    return Table(
        "Compression, level by level",
        ("Level", "Boxes", "Unknowns", "Skeletons", "Kept", "Time", "Storage"),
        [
            (
                f.count(row.level), f.count(row.boxes), f.count(row.unknowns), f.count(row.skeletons),
                f.percent(row.skeletons / row.unknowns if row.unknowns else None, 0), f.seconds(row.seconds),
                f.n_bytes(row.bytes),
            )
            for row in matrix.compress.levels
            if row.skeletons or row.bytes
        ],
        f.sentences(note, of.said_beside(matrix.alone)),
    )  # fmt: skip


def scaling(rows: Sequence[ScalingRow], growth: Mapping[str, Power], beside: str = "") -> Table:
    """Time and storage by N; the last row has the fitted exponents, by field names, with their 95 % intervals."""
    body: list[tuple[TableCell, ...]] = [
        (
            f.count(row.n), f.seconds(row.compress_seconds), f.seconds(row.factorize_seconds),
            f.seconds(row.product_seconds), f.seconds(row.solve_seconds), f.n_bytes(row.operator_bytes),
            f.n_bytes(row.factor_bytes), f.scientific(row.relative_error),
        )
        for row in rows
    ]  # fmt: skip
    if growth:
        body.append(("exponent of N", *(_exponent(growth.get(key)) for key in (*TIMES, *SIZES)), ""))
    titles = ("N", "Compress", "Factorize", "Product", "Solve", "Operator", "Factorization", "Error")
    intervals = "Exponents have 95 % intervals, from the scatter around the fitted line."
    return Table("Cost against N", titles, body, f.sentences(intervals if growth else "", beside))


def _exponent(power: Power | None) -> TableCell:
    return tuple(power.text.removesuffix(")").split(" (")) if power is not None else f.DASH


def rule_costs(rules: Sequence[RuleCost]) -> Table:
    """Where the time went: jobs and seconds by rule, longest first."""
    jobs: dict[str, list[RuleCost]] = {}
    for row in rules:
        jobs.setdefault(row.rule, []).append(row)
    spent = {rule: sum(Spread.of(row.seconds for row in found).values) for rule, found in jobs.items()}
    longest, total = max(spent.values(), default=0.0) or 1.0, sum(spent.values())
    rows: list[tuple[TableCell, ...]] = []
    for rule in sorted(spent, key=lambda rule: -spent[rule]):
        took, share = spent[rule], f.percent(spent[rule] / (total or 1.0), 0)
        peaks = [2**20 * row.max_rss_mb for row in jobs[rule] if f.is_number(row.max_rss_mb)]
        bar = Bar(length=0.8 * took / longest, text=f.seconds(took))
        rows.append((rule, bar, share, f.count(len(jobs[rule])), f.n_bytes(max(peaks, default=None))))
    titles = ("Rule", Column("Time, all jobs"), "Share", "Jobs", "Peak memory")
    return Table("Time and memory by rule", titles, rows, f"All jobs together: {f.seconds(total)}.")


#: Up to this many changed figures have a row.
SHOWN_CHANGES = 25


def changes(rows: Sequence[Change]) -> Table:
    """Figures beyond the noise of past runs, the largest change first."""
    left = len(rows) - SHOWN_CHANGES
    note = "Expected: the 99 % prediction interval of Student's t from the past runs."
    return Table(
        "Changed beyond the noise of past runs",
        ("Figure", Column("Verdict"), "Now", "Median before", "Expected", "Past runs"),
        [
            (
                f"{row.artefact} {row.figure}", row.verdict, f.significant(row.value, digits),
                f.significant(row.typical, digits),
                f"{f.significant(row.low, digits)} to {f.significant(row.high, digits)}", f.count(row.n),
            )
            for row in rows[:SHOWN_CHANGES]
            for digits in [f.told_apart(row.value, row.typical, digits=4)]
        ],
        f.sentences(note, f"{f.count(left)} more in metrics.json." if left > 0 else ""),
    )  # fmt: skip


def commits(lines: Sequence[str]) -> Table:
    """Commits with their short names and subjects, newest first."""
    rows = [(name, subject) for name, _, subject in (line.partition(" ") for line in lines)]
    return Table("Commits between", ("Commit", Column("Subject")), rows)
