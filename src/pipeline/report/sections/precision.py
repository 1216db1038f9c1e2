"""The section on networks in half precision."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from pipeline.report.answers.bits import bound_text, whole_network_speedups
from pipeline.report.content import Block, Heading, Illustration, Prose, Section
from pipeline.report.figures.roofline import rooflines
from pipeline.report.formatting import listing, n_bytes, plural
from pipeline.report.layer_tables import (
    candidates,
    device_times,
    error_growth,
    layer_bars,
    layer_times,
    layer_work,
    rounding,
)
from pipeline.report.metrics import Converted, Metrics
from pipeline.report.prediction_tables import changed_predictions, confusions, plans
from pipeline.report.runs import classes_of, label_of


def precision_section(metrics: Metrics, _: Mapping[str, np.ndarray]) -> Section | None:
    """Show each converted network: its roofline, bars with reasons, and what becomes of its answers."""
    networks, training = metrics.precision, metrics.training
    if not networks:
        return None
    blocks: list[Block | None] = []
    for name, network in networks.items():
        if len(networks) > 1:
            blocks.append(Heading(label_of(name, training.get(name))))
        blocks += _network(name, network, classes_of(metrics))
    lead = (
        "Trained networks, rounded once to FP16 and run by routines that read FP16 and add up in FP32. What is timed "
        "are plans by measurement: where that is faster within the budget, a layer multiplies in BF16 or runs on "
        "its weights widened to FP32, and its sentence says so."
    )
    return Section("bits", "Fewer bits", lead, tuple(block for block in blocks if block is not None))


def _network(name: str, network: Converted, classes: list[str]) -> list[Block | None]:
    blocks: list[Block | None] = [Prose(_network_text(network))]
    panels = rooflines(name, network.timings, network.roofs)
    if panels:
        isa = network.roofs.instruction_set
        caption = (
            f"Roofline of one core{f' ({isa})' if isa else ''}: each layer moves from FP32 (hollow) to FP16 (filled); "
            "right means fewer bytes for the same work, up means faster. Layers have the numbers of the table of speed "
            "and error below."
        )
        blocks.append(Illustration(tuple(panels), caption))
    return [
        *blocks,
        plans(network, whole_network_speedups(network)),
        layer_bars(network),
        changed_predictions(network, classes),
        *confusions(network, classes),
        error_growth(network),
        rounding(network),
        layer_work(network),
        candidates(network),
        layer_times(network),
        device_times(network),
    ]


def _network_text(network: Converted) -> str:
    sizes = network.file_bytes
    sentences = [f"File {n_bytes(sizes.fp32)} at FP32, {n_bytes(sizes.fp16)} at FP16."]
    bounds = Counter(bound_text(row.bound) for row in network.timings)
    if bounds:
        ordered = listing(f"{bound} ({n})" for bound, n in bounds.most_common())
        sentences.append(f"What bounds the {plural(bounds.total(), 'timing')}: {ordered}.")
    return " ".join(sentences)
