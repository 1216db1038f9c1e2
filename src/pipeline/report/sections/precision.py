"""The section on networks in half precision."""

from collections.abc import Mapping
from typing import Any

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
from pipeline.report.prediction_tables import changed_predictions, confusions, plans
from pipeline.report.runs import classes_of, label_of


def precision_section(metrics: Mapping[str, Any], _: Mapping[str, np.ndarray]) -> Section | None:
    """Show each converted network: its roofline, bars with reasons, and what becomes of its answers."""
    networks, training = metrics.get("precision") or {}, metrics.get("training") or {}
    if not networks:
        return None
    blocks: list[Block | None] = []
    for name, network in networks.items():
        if len(networks) > 1:
            blocks.append(Heading(label_of(name, training.get(name) or {})))
        blocks += _network(name, network, classes_of(metrics))
    lead = (
        "Trained networks, rounded once to FP16 and run by routines that read FP16 and add up in FP32. What is timed "
        "are plans by measurement: where that is faster within the budget, a layer multiplies in BF16 or runs on "
        "its weights widened to FP32, and its sentence says so."
    )
    return Section("bits", "Fewer bits", lead, tuple(block for block in blocks if block is not None))


def _network(name: str, network: Mapping[str, Any], classes: list[str]) -> list[Block | None]:
    text = _network_text(network)
    blocks: list[Block | None] = [Prose(text) if text else None]
    panels = rooflines(name, network.get("timings") or [], network.get("roofs"))
    if panels:
        isa = (network.get("roofs") or {}).get("instruction_set")
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


def _network_text(network: Mapping[str, Any]) -> str:
    sentences = []
    sizes = network.get("file_bytes") or {}
    if sizes:
        sentences.append(f"File {n_bytes(sizes.get('fp32'))} at FP32, {n_bytes(sizes.get('fp16'))} at FP16.")
    bounds: dict[str, int] = {}
    for row in network.get("timings") or []:
        bounds[bound_text(row.get("bound"))] = bounds.get(bound_text(row.get("bound")), 0) + 1
    if bounds:
        ordered = sorted(bounds.items(), key=lambda item: -item[1])
        total = plural(sum(bounds.values()), "timing")
        sentences.append(f"What bounds the {total}: {listing(f'{bound} ({n})' for bound, n in ordered)}.")
    return " ".join(sentences)
