"""What one run of a packed layer does: FLOPs, bytes, conversions, and how many numbers pass between its products.

FLOPs and bytes make the bound; see `roofline`. The prediction also counts what the routine executes: a vector that is
not full takes as long as a full one, so that 24 outputs cost as much as 32 in a panel of 32; windows that reach outside
the image skip the taps there; and blocks of depthwise outputs share what they load.
"""

import functools
import math
import re
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipeline.precision.plan import N_BYTES, Layer, WindowGeometry, windows
from pipeline.precision.routines import build
from pipeline.precision.strips import STRIP_BYTES, Strips

VECTOR = 16  # outputs of a group that fill a vector; fewer leave a part of it idle
NARROW = 4  # channels of a first layer, whose loops over the taps are too short to run at the others' rate
BLOCK = 7  # depthwise outputs next to each other that share their inputs; `depthwise_block` in native/routines.hpp
# Functions that routines apply to sums in registers; `Cut` in native/finish.inl.
CUTS = ("", "clip", "hard_swish")
LARGEST = 65504.0  # the largest finite number of binary16


@dataclass(frozen=True)
class Work:
    """What one run of a layer does.

    Attributes:
        flops: FLOPs that are executed; Winograd's algorithm executes fewer than the layer's definition has.
        weight_bytes: Weights as they are packed.
        activation_bytes: Inputs, addends and outputs, each once.
        conversions: Numbers converted between binary16 and binary32.
        workspace_bytes: Intermediate results, written and read again.
        slots: Executed FLOPs, with vectors that are not full counted as full; 0 if they equal `flops`.
        numbers: Inputs and addends that are loaded, with vectors that are not full counted as full.
        results: Outputs, counted in the same way.
        function: The function of each result, if it takes more than a comparison; else empty.
        routine: The class of routines, a key of `Roofs.attained`, or one that begins with such a key.
        handed_bytes: Bytes of activations that other layers hand to it, or it to them, in strips within a network.
        n_strips: How many strips there are, each of which reads the weights.
        strip_bytes: Bytes that must stay in near caches meanwhile: all weights of the chain, and what is handed on.
    """

    flops: float
    weight_bytes: float
    activation_bytes: float
    conversions: float
    workspace_bytes: float = 0.0
    slots: float = 0.0
    numbers: float = 0.0
    results: float = 0.0
    function: str = ""
    routine: str = ""
    handed_bytes: float = 0.0
    n_strips: int = 1
    strip_bytes: float = 0.0

    @property
    def n_bytes(self) -> float:
        """Weights and activations."""
        return self.weight_bytes + self.activation_bytes


@dataclass(frozen=True)
class _Executed:
    """What vectors do for one sample; see `Work`."""

    slots: float
    numbers: float
    results: float


def work_of(layer: Layer, native: Any, batch: int, strips: Strips | None = None) -> Work:
    """Return the work of a packed layer for a batch, in strips with other layers or by itself."""
    n_in = math.prod(layer.input_shape) * N_BYTES[layer.input_dtype]
    n_out = math.prod(layer.output_shape) * N_BYTES[layer.output_dtype]
    n_added = layer.n_addend * N_BYTES[layer.addend_dtype]
    routine = native.routine(batch)
    lanes = lanes_of(routine.rpartition(", ")[2])
    panel = re.search(r"(\d+) outputs wide", routine)
    width = int(panel[1]) if panel is not None else lanes
    flops = native.flops(batch) if layer.has_weights else batch * layer.flops
    executed = _executed(layer, native, flops / batch, width, lanes)
    return Work(
        flops=flops,
        weight_bytes=native.weight_bytes,
        activation_bytes=batch * (n_in + n_added + n_out),
        conversions=native.conversions(batch),
        workspace_bytes=_workspace(layer, native, batch),
        slots=batch * executed.slots,
        numbers=batch * executed.numbers,
        results=batch * executed.results,
        function=_function(layer),
        routine=routine_class(layer, batch, one_vector=panel is not None and width == lanes),
        handed_bytes=0.0 if strips is None else batch * (n_in * strips.reads + n_out * strips.gives),
        n_strips=1 if strips is None else batch * strips.n,
        strip_bytes=0.0 if strips is None else strips.weight_bytes + STRIP_BYTES,
    )


def _workspace(layer: Layer, native: Any, batch: int) -> float:
    """Return the bytes of workspace that a run uses; a gather layer uses it only for numbers that it converts."""
    held = float(native.workspace_bytes(batch))
    return min(held, 4.0 * native.conversions(batch)) if layer.kind == "gather" else held


@functools.cache
def lanes_of(instruction_set: str) -> int:
    """How many binary32 numbers a vector holds: a product with one output has a panel of one vector."""
    layer = Layer("one", "linear", "given", (1,), (1,), routine="product fp32").in_single()
    one = {"one.weight": torch.ones(1, 1), "one.bias": torch.zeros(1)}
    found = re.search(r"(\d+) outputs wide", build(layer, one, instruction_set).routine(1))
    assert found is not None
    return int(found[1])


def _whole(n: int, of: int) -> int:
    """`n` rounded up to a multiple."""
    return math.ceil(n / of) * of


def _executed(layer: Layer, native: Any, flops: float, width: int, lanes: int) -> _Executed:
    n_in, n_out = math.prod(layer.input_shape), math.prod(layer.output_shape)
    channels = layer.output_shape[0]
    full = _whole(channels, lanes) / channels
    if layer.routine.startswith("depthwise"):
        return _depthwise(layer, lanes)
    if layer.has_weights:
        geometry = layer.geometry
        groups = 1 if geometry is None else geometry.groups
        together = channels // groups
        if " bf16" in layer.routine or " split" in layer.routine:  # narrow groups are joined
            while groups % 2 == 0 and together < VECTOR:
                groups, together = groups // 2, 2 * together
        if geometry is None:
            n_in = _whole(n_in, lanes)
        elif geometry.kernel == (1, 1):  # pixel by pixel, but for those that no window reads
            n_in = _whole(layer.input_shape[0], lanes) * n_out // channels
        slots = flops * _whole(together, width) / together
        return _Executed(slots, n_in + layer.n_addend, n_out * _whole(together, lanes) / together)
    if layer.kind in ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"):
        rows, columns = ([end - start for start, end in ends] for ends in windows(layer))
        return _Executed(0.0, channels * full * sum(rows) * sum(columns), n_out * full)
    if layer.kind == "gather":
        return _Executed(0.0, native.weight_bytes / 16, n_out)  # one of 16 bytes for each run of numbers
    if layer.kind == "scale":
        return _Executed(0.0, n_in * full, n_out * full)
    if layer.kind in ("softmax", "layer_norm"):  # each row has sums that the next passes wait for
        return _Executed(0.0, n_in / channels, n_out * full)
    return _Executed(flops if layer.operands else 0.0, n_in + layer.n_addend, n_out)


def _depthwise(layer: Layer, lanes: int) -> _Executed:
    """Count the steps of native/depthwise.inl: blocks of columns, in pairs of lines where there are registers."""
    geometry = layer.geometry
    assert geometry is not None
    _, height, width = layer.input_shape
    channels, out_height, out_width = layer.output_shape
    size, stride = geometry.kernel[1], geometry.stride[1]
    rows = _inside(geometry, 0, height, out_height)
    columns = _inside(geometry, 1, width, out_width)
    numbers = _whole(channels, lanes)
    square = geometry.kernel[0] == size and (size, stride) in ((1, 1), (3, 1), (3, 2), (5, 1), (5, 2))
    if not square or geometry.dilation[1] != 1:
        taps = sum(rows) * sum(columns) * numbers
        return _Executed(2 * taps, 2 * taps, out_height * out_width * numbers)
    n_blocks = math.ceil(out_width / BLOCK) if out_width >= BLOCK else out_width
    wide = BLOCK if out_width >= BLOCK else 1
    repeated = n_blocks * wide / out_width  # the last block ends where the row does
    in_pairs = lanes >= VECTOR and geometry.stride[0] == stride and geometry.dilation[0] == 1
    passes = sum(rows)
    if in_pairs:
        # Two lines of outputs share all but `stride` rows of the image on either side.
        passes -= sum(
            max(min(before, after) - stride, 0) for before, after in zip(rows[::2], rows[1::2], strict=False)
        )
    loads = passes * n_blocks * ((wide - 1) * stride + size) + sum(rows) * n_blocks * size
    return _Executed(
        2 * sum(rows) * sum(columns) * repeated * numbers,
        loads * numbers,
        out_height * out_width * repeated * numbers,
    )


def _inside(geometry: WindowGeometry, axis: int, size: int, count: int) -> list[int]:
    """How many taps of each window along an axis lie in the image."""
    places = [
        [
            i * geometry.stride[axis] - geometry.padding[axis] + k * geometry.dilation[axis]
            for k in range(geometry.kernel[axis])
        ]
        for i in range(count)
    ]
    return [sum(0 <= place < size for place in window) for window in places]


def _function(layer: Layer) -> str:
    """The function whose time is counted separately; empty if it is applied to sums in registers."""
    if layer.kind in ("activation", "multiply"):
        return layer.function
    in_registers = not layer.routine.startswith("depthwise") or layer.output_dtype == "float16"
    return "" if layer.function in (CUTS if in_registers else CUTS[:2]) else layer.function


def routine_class(layer: Layer, batch: int, *, one_vector: bool = False) -> str:
    """Return the class of routines of one speed: properties from the general to the particular, joined by commas.

    The properties are algorithm and storage of weights; the shape of the product; whether its panels are one vector
    wide; and how activations are stored, if it is not as the weights are.
    """
    parts = [layer.routine if layer.kind in ("conv2d", "linear", "add") else layer.kind]
    if layer.kind == "activation":
        parts = ["multiply"]  # the same loop
    geometry = layer.geometry
    pixels = math.prod(layer.output_shape[1:])
    halves = layer.input_dtype == "float16"
    usual = not (layer.has_weights and layer.routine.endswith("fp32"))
    if layer.kind == "linear":
        parts.append("vector" if batch == 1 else "matrix")
    elif geometry is not None and layer.routine.startswith("direct"):
        width = layer.output_shape[0] // geometry.groups
        if geometry.groups > 1 and width < VECTOR:
            parts.append(f"groups of {1 << (width.bit_length() - 1)}")
        elif geometry == replace(
            geometry, kernel=(1, 1), stride=(1, 1), padding=(0, 0), padding_after=None, groups=1
        ):
            if batch * pixels == 1:
                parts = [layer.routine.replace("direct", "product"), "vector"]
            else:
                parts.append("pointwise")
        elif layer.input_shape[0] <= NARROW:
            parts.append("narrow")
    if (
        one_vector
        and layer.routine.startswith("direct")
        and parts[-1] != "vector"
        and "groups" not in parts[-1]
    ):
        parts.append("one vector")
    if layer.routine.startswith("depthwise"):
        halves = layer.output_dtype == "float16"
        if layer.function == "clip" and max(map(abs, layer.constants[:2])) <= LARGEST:
            parts.append("bounded")  # results need no check that binary16 holds them
    elif not layer.has_weights:
        halves = halves and layer.output_dtype == "float16"
    if halves != usual and parts[-1] != "narrow":
        parts.append("halves" if halves else "singles")
    return ", ".join(parts)
