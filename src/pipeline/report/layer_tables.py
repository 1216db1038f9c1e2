"""Tables of converted networks, layer by layer."""

import math
import re
from itertools import chain

from pipeline.artifacts.results.half_network import LayerErrorRow, TimingRow
from pipeline.report import formatting as f
from pipeline.report.content import Bar, Column, Table
from pipeline.report.metrics import Converted
from pipeline.report.runs import said_of_timings
from pipeline.report.spread import Spread

#: Scale of the bars relative to the largest figure; a tick at a bar's very end would touch the number beside it.
HEADROOM = 1.06


def layer_bars(network: Converted) -> Table:
    """One row per layer: speedup bars by batch size, the error of the same plans beside them, and why."""
    timings: dict[str, list[TimingRow]] = {}
    for row in network.timings:
        timings.setdefault(row.layer, []).append(row)
    errors = layer_errors(network)
    batches = sorted({row.batch for row in network.timings})
    ends = ((row.speedup, row.predicted_speedup, row.interval and row.interval[1]) for row in network.timings)
    top = HEADROOM * max((1.0, *Spread.of(chain.from_iterable(ends)).values))
    rows, details = [], []
    for number, (name, of_layer) in enumerate(timings.items(), 1):
        ordered = sorted(of_layer, key=lambda row: row.batch)
        found = [errors.get((str(row.batch), name)) for row in ordered]
        rows.append(
            (
                f"{number}  {name}",
                tuple(_speed_bar(row, top, batches) for row in ordered),
                tuple(f.relative(error and error.added_error) for error in found),
                tuple(f.relative(error and error.relative_error) for error in found),
                tuple(f.decimal(error and error.sqnr_db, 1) for error in found),
            )
        )
        details.append(_reasons(ordered))
    note = (
        "There is a line for each batch size, with the plan that was chosen for it by measurement. Bar: the "
        "speedup measured, with its bootstrap interval as a whisker. Tick: the speedup predicted, from the roofs "
        "and from what such routines attain on reference layers; the sentences below each layer give the same. "
        "Vertical line: no change. Errors are relative, in the Euclidean norm, against float64 with the weights as "
        "they were trained. Added error: the layer's own error, from exact inputs. Output error: with the errors of "
        "the layers before it. SQNR: the output error in decibels."
    )
    return Table(
        "Speed and error of every layer, and why it is that fast",
        ("Layer", Column("FP32 time / FP16 time"), "Added error", "Output error", "Output SQNR (dB)"),
        rows,
        f.sentences(note, said_of_timings(network)),
        details=details,
    )


def layer_errors(network: Converted) -> dict[tuple[str, str], LayerErrorRow]:
    """The errors of the plans that were timed, by batch size and layer."""
    return {(batch, error.layer): error for batch, plan in network.plans.items() for error in plan.errors}


def _speed_bar(row: TimingRow, top: float, batches: list[int]) -> Bar:
    low, high = row.interval or (math.nan, math.nan)
    return Bar(
        length=row.speedup / top if f.is_number(row.speedup) else 0.0,
        text=f.times(row.speedup),
        series="series-3" if batches.index(row.batch) % 2 == 0 else "series-4",
        label=f"batch {f.count(row.batch)}",
        mark=row.predicted_speedup / top if f.is_number(row.predicted_speedup) else None,
        reference=1.0 / top,
        interval=(low / top, high / top) if f.is_number(low) and f.is_number(high) else None,
    )


def _reasons(rows: list[TimingRow]) -> tuple[tuple[str, str], ...]:
    """(batch, sentences) for every batch size, or the sentences once if they are always the same.

    A reason opens with the outcome and the speedup; the bar beside it has the speedup already. Reasons of former
    versions have a colon behind these, where others begin the next sentence.
    """
    said = []
    for row in rows:
        text = re.sub(r"^([^:,]*), [\d.,]+x(?= by | with |[:.] )", r"\1", row.reason)
        if text:
            said.append((f"Batch {f.count(row.batch)}", text[0].upper() + text[1:]))
    return (("", said[0][1]),) if len(said) > 1 and len({text for _, text in said}) == 1 else tuple(said)


def rounding(network: Converted) -> Table:
    """Effect of one rounding to FP16 on every layer."""
    return Table(
        "Conversion to FP16, layer by layer",
        (
            "Layer", Column("Kind"), "Parameters", "Work", "Weights' error", "SQNR (dB)", "Overflow", "Subnormal",
            "To zero",
        ),
        [
            (
                layer.name, layer.kind, f.count(layer.n_parameters), f.flops(layer.flops),
                f.relative(layer.relative_error), f.decimal(layer.sqnr_db, 1), f.count(layer.n_overflow),
                f.count(layer.n_subnormal), f.count(layer.n_flushed),
            )
            for layer in network.layers
        ],
        "Work: operations for one sample by the layer's definition; with padding or by Winograd's algorithm a "
        "routine executes another number of them, which the table of work and traffic gives. Weights' error: the "
        "relative change of the weights by rounding, in the Euclidean norm. SQNR: the same in decibels. Overflow, "
        "subnormal, to zero: how many weights were too large, were stored with fewer digits, and were stored as zero.",
    )  # fmt: skip


def error_growth(network: Converted) -> Table:
    """How errors grow from layer to layer, and how large the activations become."""
    return Table(
        "How the error grows through the network",
        (
            "Layer", "Batch", "Added error", "Error after it", "Growth", "Largest", "Saturated", "Subnormal", "To zero",
            "Results",
        ),
        [
            (
                name, batch, f.relative(found.added_error), f.relative(found.relative_error), f.times(found.growth),
                f.significant(found.largest), f.count(found.n_saturated), f.count(found.n_subnormal),
                f.count(found.n_flushed), f.count(found.n_results),
            )
            for (batch, name), found in layer_errors(network).items()
        ],
        "The plans are those that were timed. Added error: the relative error of a layer whose inputs are exact, "
        "against float64. Error after it: with the errors of the layers before it, too. Growth: the error after a "
        "layer, divided by the error before it. Largest: the largest magnitude of a result. Saturated: results too "
        "large for FP16, stored as 65,504. Subnormal: results stored with fewer digits. To zero: results that are not "
        "zero but are stored as zero. Results: how many the layer has.",
    )  # fmt: skip


def candidates(network: Converted) -> Table:
    """The routines that each layer was chosen from."""
    return Table(
        "What the routines were chosen from",
        ("Layer", "Batch", Column("Routine"), "Time", "Added error", Column("Choice")),
        [
            (
                row.layer, f.count(row.batch), row.routine, f.seconds(row.seconds), f.relative(row.error),
                "chosen" if row.chosen else "",
            )
            for row in network.candidates
            if " " in row.routine
        ],
        "Times are measured inside the network. The second word of a routine is the format of its weights in memory. "
        "All routines compute with the weights as stored and add up in FP32. Added error: the error of the layer from "
        "exact inputs, by rounded weights, products and results. Layers move away from FP32 in the order of squared "
        "error added per second saved, as far as the budget allows.",
        fold=True,
    )  # fmt: skip


def device_times(network: Converted) -> Table:
    """A table of the same layers on a GPU, by torch's own routines."""
    cores: dict[bool | None, str] = {True: "yes", False: "no"}
    return Table(
        f"The same layers on {next((row.device for row in network.device_timings), '')}",
        (
            "Layer", "Batch", Column("Precision"), Column("Format"), "Time", "Speedup", "Error",
            Column("Tensor cores"), Column("Kernel"),
        ),
        [
            (
                row.layer, f.count(row.batch), row.precision, row.memory_format, f.seconds(row.seconds),
                f.times(row.speedup), f.relative(row.relative_error), cores.get(row.tensor_cores, f.DASH),
                f.shorten((row.kernels or [f.DASH])[0], 60),
            )
            for row in network.device_timings
        ],
        "Torch's own routines, timed by CUDA events. Speedup: relative to FP32 in the faster format. Tensor cores: "
        "whether any were used, as the names of the kernels tell.",
    )  # fmt: skip


def layer_work(network: Converted) -> Table:
    """Operations and bytes of every layer, and the memory levels that the bytes come from."""
    return Table(
        "Work and traffic",
        ("Layer", "Batch", "Work", "Executed", "FLOP/byte", "Bytes FP32", "Bytes FP16", Column("By level, FP16")),
        [
            (
                row.layer, f.count(row.batch), f.flops(row.flops), f.flops(row.executed_flops),
                f.significant(row.intensity), f.n_bytes(row.bytes_fp32), f.n_bytes(row.bytes_fp16), _traffic(row),
            )
            for row in network.timings
        ],
        "Work: operations by the layer's definition. Executed: operations of the routine, which are fewer by "
        "Winograd's algorithm, and more where it pads channels or splits numbers. Bytes: weights as packed, inputs "
        "and outputs, each once. By level: where the bytes come from, with those of intermediate results.",
        fold=True,
    )  # fmt: skip


def layer_times(network: Converted) -> Table:
    """Times and attained rates behind the bars, and those of the other modes."""
    timings = [*network.timings, *network.other_timings]
    disturbed = [row.n_disturbed for row in timings if row.n_disturbed]
    note = f.sentences(
        "Times are medians. Mode: in the mode network, a layer runs after the layers before it; warm, again and "
        "again; cold, each time after a sweep that empties the caches. Rates are those of FP16. Routine: that of both "
        "precisions, or FP32 → FP16.",
        "Exceeded: the layer is more than 5 % faster than its roof allows, at one precision at least."
        if any(map(beats_bound, timings))
        else "",
        "Other work disturbed some timings that are counted, because there were hardly any others: "
        f"{f.plural(sum(disturbed), 'sample')} of {f.plural(len(disturbed), 'row')}."
        if disturbed
        else "",
    )
    return Table(
        "Times behind the bars",
        (
            "Layer", "Batch", Column("Mode"), "FP32", "FP16", "FP16 predicted", "Speedup", "Speedup predicted",
            "GFLOP/s", "GB/s", Column("Bound by"), Column("Routine"),
        ),
        [
            (
                row.layer, f.count(row.batch), row.mode, f.seconds(row.seconds_fp32), f.seconds(row.seconds_fp16),
                f.seconds(row.predicted_seconds_fp16), f.times(row.speedup), f.times(row.predicted_speedup),
                f.significant(row.gflops, 3), f.significant(row.gbytes, 3),
                f"{row.bound or f.DASH}{' (exceeded)' if beats_bound(row) else ''}", _routines(row),
            )
            for row in timings
        ],
        note,
        fold=True,
    )  # fmt: skip


def beats_bound(row: TimingRow) -> bool:
    """Whether a layer took less time at either precision than the roofs allow, beyond their noise of 5 %."""
    sides = ((row.seconds_fp32, row.bound_seconds_fp32), (row.seconds_fp16, row.bound_seconds_fp16))
    return any(f.is_number(bound) and bound > 1.05 * seconds for seconds, bound in sides)


def _traffic(row: TimingRow) -> str:
    """Bytes by the cache level that they come from."""
    moved = row.traffic_fp16.items()
    return ", ".join(f"{level} {f.n_bytes(size, 2)}" for level, size in moved if size) or f.DASH


def _routines(row: TimingRow) -> str:
    """The routines of both precisions in few words, named once if they differ only in the weights' type."""
    names = []
    for routine in filter(None, (row.routine_fp32, row.routine_fp16)):
        name = re.sub(r",? fp(16|32) weights", "", routine.replace("convolution", "conv"))
        names.append(re.sub(r" (\d+) outputs wide", r" \1-wide", name))
    return " → ".join(dict.fromkeys(names)) or f.DASH
