"""ONNX's operators, computed by torch: one function each, whose keywords are the attributes that it understands."""

# Importing a file enters its operators into the table.
from pipeline.precision.onnx_operators import (
    activations,
    arithmetic,
    attention,
    constants,
    convolution,
    normalization,
    padding,
    pooling,
    resizing,
    shapes,
)
from pipeline.precision.onnx_operators.table import ATTRIBUTES, OPERATORS, Refused

__all__ = [
    "ATTRIBUTES",
    "OPERATORS",
    "Refused",
    "activations",
    "arithmetic",
    "attention",
    "constants",
    "convolution",
    "normalization",
    "padding",
    "pooling",
    "resizing",
    "shapes",
]
