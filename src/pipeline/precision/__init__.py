"""Fewer bits: half-precision inference on SIMD routines, with speed, reason and error per layer."""

from pipeline.precision.attained import measure_attained
from pipeline.precision.devices import DeviceTiming, time_on_device
from pipeline.precision.error import LayerError
from pipeline.precision.execution import Execution
from pipeline.precision.layer_timing import LayerTiming
from pipeline.precision.network import HalfNetwork, Selection
from pipeline.precision.onnx_export import export_onnx
from pipeline.precision.onnx_import import onnx_module
from pipeline.precision.plan import Layer, RoundingReport
from pipeline.precision.predictions import Predictions, compare_predictions
from pipeline.precision.roofline import Roofs, measure_roofs
from pipeline.precision.routines import instruction_sets
from pipeline.precision.sampling import Sampling
from pipeline.precision.verification import Budget, Verification

__all__ = [
    "Budget",
    "DeviceTiming",
    "Execution",
    "HalfNetwork",
    "Layer",
    "LayerError",
    "LayerTiming",
    "Predictions",
    "Roofs",
    "RoundingReport",
    "Sampling",
    "Selection",
    "Verification",
    "compare_predictions",
    "export_onnx",
    "instruction_sets",
    "measure_attained",
    "measure_roofs",
    "onnx_module",
    "time_on_device",
]
