"""Tables of the page, one function each, from metrics to :class:`Table`."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.report import formatting as f
from pipeline.report.content import Bar, Cell, Column, Table
from pipeline.report.drawing import stroke
from pipeline.report.runs import (
    accuracy_on_test,
    accuracy_on_train,
    common_decimals,
    label_of,
    loss_gap,
    loss_on_test,
    method_of,
    n_steps,
    spread_text,
    wall_seconds,
)
from pipeline.report.spread import Spread

Rows = Iterable[Mapping[str, Any]]


def final_accuracy(training: Mapping[str, Any]) -> Table:
    """One row per run: method, cost and final scores as mean ± standard deviation over seeds."""
    columns = (
        Column("Run"), Column("Method"), Column("Batch", True), Column("Steps", True),
        Column("Train acc. (%)", True), Column("Test acc. (%)", True), Column("Test loss", True),
        Column("Gap", True), Column("Time", True), Column("Seeds", True),
    )  # fmt: skip
    runs = list(training.items())
    scores = [
        [of(run) for _, run in runs] for of in (accuracy_on_train, accuracy_on_test, loss_on_test, loss_gap)
    ]
    places = [common_decimals(column, usual) for column, usual in zip(scores, (2, 2, 3, 3), strict=True)]
    rows = tuple(
        (
            label_of(name, run),
            method_of(run),
            f.count(run.get("batch_size")),
            f.count(n_steps(run).mean),
            *(spread_text(column[place], decimals) for column, decimals in zip(scores, places, strict=True)),
            f.seconds(wall_seconds(run).mean),
            f.count(accuracy_on_test(run).n),
        )
        for place, (name, run) in enumerate(runs)
    )
    return Table(
        "Final scores of every run",
        columns,
        rows,
        note="Mean ± standard deviation over seeds. Gap: test loss minus training loss at the end. "
        "Time: mean seconds of training.",
        series=tuple(stroke(index).variable for index in range(len(rows))),
    )


def layer_bars(network: Mapping[str, Any]) -> Table | None:
    """One row per layer: speedup bars by batch size, rounding error beside them, and why."""
    timings: dict[str, list[Mapping[str, Any]]] = {}
    for row in network.get("timings") or []:
        timings.setdefault(str(row.get("layer", f.DASH)), []).append(row)
    if not timings:
        return None
    layers = {str(layer.get("name")): layer for layer in network.get("layers") or []}
    batches = sorted(
        {row["batch"] for rows in timings.values() for row in rows if f.is_number(row.get("batch"))}
    )
    top = max((v for rows in timings.values() for row in rows for v in _extremes(row)), default=1.0)
    rows = []
    for number, (name, of_layer) in enumerate(timings.items(), 1):
        ordered = sorted(
            of_layer, key=lambda row: batches.index(row["batch"]) if row.get("batch") in batches else 0
        )
        bars = tuple(_speed_bar(row, max(top, 1.0), batches) for row in ordered)
        error = (layers.get(name) or {}).get("relative_error")
        rows.append((f"{number}  {name}", bars, f.significant(error), _reasons(ordered)))
    return Table(
        "Speed, error and reason, layer by layer",
        (
            Column("Layer"),
            Column("FP32 time / FP16 time"),
            Column("Rounding error", True),
            Column("Why", wide=True),
        ),
        tuple(rows),
        note="Bars: measured, with the interval of the medians as a whisker; tick: predicted by the roofline; "
        "vertical line: no change. Rounding error: of the layer's output, relative, in the Euclidean norm.",
        stacked=True,
    )


def _extremes(row: Mapping[str, Any]) -> list[float]:
    values = [row.get("speedup"), row.get("predicted_speedup"), (_speed_interval(row) or (0.0, None))[1]]
    return [value for value in values if f.is_number(value)]


def _speed_interval(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Lowest and highest ratio that the two intervals of the medians allow."""
    full, half = row.get("interval_fp32"), row.get("interval_fp16")
    if not full or not half or not all(f.is_number(v) and v > 0 for v in (*full, *half)):
        return None
    return full[0] / half[1], full[1] / half[0]


def _speed_bar(row: Mapping[str, Any], top: float, batches: list[int]) -> Bar:
    speedup, predicted, interval = row.get("speedup"), row.get("predicted_speedup"), _speed_interval(row)
    place = batches.index(row["batch"]) if row.get("batch") in batches else 0
    return Bar(
        length=speedup / top if f.is_number(speedup) else 0.0,
        text=f.times(speedup),
        series="series-3" if place % 2 == 0 else "series-4",
        label=f"batch {f.count(row.get('batch'))}",
        mark=predicted / top if f.is_number(predicted) else None,
        reference=1.0 / top,
        interval=(interval[0] / top, interval[1] / top) if interval else None,
    )


def _reasons(rows: list[Mapping[str, Any]]) -> str:
    """The sentences of all batch sizes; said once if they are the same."""
    reasons = list(dict.fromkeys(str(row["reason"]) for row in rows if row.get("reason")))
    if len(reasons) == 1:
        return reasons[0]
    return (
        "\n".join(f"Batch {f.count(row.get('batch'))}: {row['reason']}" for row in rows if row.get("reason"))
        or f.DASH
    )


def rounding(network: Mapping[str, Any]) -> Table | None:
    """What one rounding to FP16 did to every layer."""
    layers = network.get("layers") or []
    if not layers:
        return None
    columns = (
        Column("Layer"), Column("Kind"), Column("Routine"), Column("Parameters", True), Column("Work", True),
        Column("SQNR (dB)", True), Column("Relative error", True), Column("Overflow", True),
        Column("Subnormal", True), Column("To zero", True),
    )  # fmt: skip
    rows = tuple(
        (
            str(layer.get("name", f.DASH)), str(layer.get("kind") or f.DASH), str(layer.get("routine") or f.DASH),
            f.count(layer.get("n_parameters")), f.flops(layer.get("flops")), f.decimal(layer.get("sqnr_db"), 1),
            f.significant(layer.get("relative_error")), f.count(layer.get("n_overflow")),
            f.count(layer.get("n_subnormal")), f.count(layer.get("n_flushed")),
        )
        for layer in layers
    )  # fmt: skip
    return Table(
        "Conversion to FP16, layer by layer",
        columns,
        rows,
        note="SQNR: signal to rounding noise. Overflow, subnormal, to zero: how many weights left the normal "
        "range of FP16. Work: per sample.",
    )


def layer_times(network: Mapping[str, Any]) -> Table | None:
    """Times, traffic and attained rates behind the bars."""
    timings = network.get("timings") or []
    if not timings:
        return None
    columns = (
        Column("Layer"), Column("Batch", True), Column("FP32", True), Column("FP16", True), Column("Speedup", True),
        Column("Predicted", True), Column("FLOP/byte", True), Column("GFLOP/s", True), Column("GB/s", True),
        Column("Bound by"), Column("Routine (FP32 → FP16)"),
    )  # fmt: skip
    rows = tuple(
        (
            str(row.get("layer", f.DASH)), f.count(row.get("batch")), f.seconds(row.get("seconds_fp32")),
            f.seconds(row.get("seconds_fp16")), f.times(row.get("speedup")), f.times(row.get("predicted_speedup")),
            f.significant(row.get("intensity")), f.significant(row.get("gflops"), 3),
            f.significant(row.get("gbytes"), 3), str(row.get("bound") or f.DASH), _routines(row),
        )
        for row in timings
    )  # fmt: skip
    return Table(
        "Times behind the bars", columns, rows, note="Medians. Rates and intensity are those of FP16."
    )


def _routines(row: Mapping[str, Any]) -> str:
    names = dict.fromkeys(str(row[key]) for key in ("routine_fp32", "routine_fp16") if row.get(key))
    return " → ".join(names) or f.DASH


def levels(matrix: Mapping[str, Any]) -> Table | None:
    """Compression, tree level by tree level."""
    found = (matrix.get("compress") or {}).get("levels") or []
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


def _ratio(part: object, whole: object) -> float | None:
    return part / whole if f.is_number(part) and f.is_number(whole) and whole else None


def scaling(found: Mapping[str, Any], growth: Mapping[str, float]) -> Table | None:
    """Time and storage by N, with fitted exponents in the last row."""
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
        body.append(("exponent of N", *(f.decimal(growth.get(key), 2) for key in keys), ""))
    columns = (Column("N"), *(Column(title, True) for title, _ in keys.values()), Column("Error", True))
    return Table("Cost against N", columns, tuple(body))


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


def _megabytes(value: float | None) -> str:
    return f.n_bytes(value * 2**20) if value is not None else f.DASH


def provenance(found: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Where, when and from what the study was made, as named values."""
    return tuple(
        (str(key).replace("_", " ").capitalize(), _plain(value))
        for key, value in found.items()
        if value is not None
    )


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)
