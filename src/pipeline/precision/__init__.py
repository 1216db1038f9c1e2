"""Fewer bits: half-precision inference on SIMD routines, with speed, reason and error per layer."""

from pipeline.precision.error import LayerError
from pipeline.precision.network import HalfNetwork
from pipeline.precision.plan import Layer, RoundingReport
from pipeline.precision.roofline import Roofs, measure_roofs
from pipeline.precision.routines import Execution, instruction_sets
from pipeline.precision.sampling import Sampling
from pipeline.precision.timing import LayerTiming

__all__ = [
    "Execution",
    "HalfNetwork",
    "Layer",
    "LayerError",
    "LayerTiming",
    "Roofs",
    "RoundingReport",
    "Sampling",
    "instruction_sets",
    "measure_roofs",
]
