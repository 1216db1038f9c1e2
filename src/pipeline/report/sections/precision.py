"""The section on networks in half precision."""

from collections import Counter

from pipeline.report import layer_tables as tables
from pipeline.report.answers.bits import bound_text, whole_network_speedups
from pipeline.report.content import Block, Heading, Illustration, PageSection, Prose
from pipeline.report.drawing import Arrays
from pipeline.report.figures.roofline import arithmetic_peaks, rooflines
from pipeline.report.formatting import count, is_number, listing, n_bytes, plural, sentences
from pipeline.report.metrics import Converted, Metrics
from pipeline.report.prediction_tables import changed_predictions, confusions, plans
from pipeline.report.runs import label_of


def precision_section(metrics: Metrics, _: Arrays) -> PageSection | None:
    """Show each converted network: its roofline, bars with reasons, and the changes in its answers."""
    networks, training = metrics.precision, metrics.training
    if not networks:
        return None
    blocks: list[Block] = []
    for name, network in networks.items():
        if len(networks) > 1:
            blocks.append(Heading(label_of(name, training.get(name))))
        blocks += _network(name, network, metrics.study.classes)
    lead = (
        "The weights of trained networks are rounded once to FP16, and routines read FP16 and add up in FP32. For each "
        "batch size, measurements choose a plan: where it is faster and the error stays within the budget, a layer "
        "multiplies in BF16 or keeps its weights in FP32. The sentences below each layer say so."
    )
    return PageSection("bits", "Fewer bits", lead, blocks)


def _network(name: str, network: Converted, classes: list[str]) -> list[Block]:
    isa = network.roofs.instruction_set
    caption = (
        f"Roofline of one core{f' ({isa})' if isa else ''}. Each layer moves from FP32 (hollow) to FP16 (filled): "
        "to the right with fewer bytes for the same work, and up if it is faster. The numbers are those of the "
        "layers in the table of speed and error below; where points are crowded, some go without one. "
        "The GB/s are those of reading from one level; a layer whose bytes come from several has a rate between "
        "theirs."
        f"{_above_the_roof(network)}"
    )
    return [
        Prose(_network_text(network)),
        Illustration(rooflines(name, network.timings, network.roofs), caption),
        plans(network, whole_network_speedups(network)),
        tables.layer_bars(network),
        changed_predictions(network, classes),
        *confusions(network, classes),
        tables.error_growth(network),
        tables.rounding(network),
        tables.layer_work(network),
        tables.candidates(network),
        tables.layer_times(network),
        tables.device_times(network),
    ]


def _above_the_roof(network: Converted) -> str:
    """Explain why a layer is above a measured roof, if one is; a few percent are noise."""
    beaten = sum(map(tables.beats_bound, network.timings))
    if beaten:
        subject = "One timing beats its roof" if beaten == 1 else f"{count(beaten)} timings beat their roof"
        return (
            f" {subject} by more than 5 %: it was measured too low, for example because other programs ran, or "
            "it does not hold for the routine that ran."
        )
    peaks = arithmetic_peaks(network.timings, network.roofs).values()
    rates = [row.gflops for row in network.timings if is_number(row.gflops)]
    if not peaks or not any(rate > 1.05 * max(peaks) for rate in rates):
        return ""
    return (
        " A layer may be above the roof, because work is counted by the layer's definition, and Winograd's algorithm "
        "does less."
    )


def _network_text(network: Converted) -> str:
    bounds, sizes = Counter(bound_text(row.bound) for row in network.timings), network.file_bytes
    ordered = listing(f"{bound} ({n})" for bound, n in bounds.most_common())
    return sentences(
        f"{plural(bounds.total(), 'timing')} are limited by {ordered}." if bounds else "",
        f"The file takes {n_bytes(sizes.fp32)} at FP32 and {n_bytes(sizes.fp16)} at FP16.",
    )
