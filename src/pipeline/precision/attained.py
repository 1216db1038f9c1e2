"""What each class of routines attains on small reference layers: the measured side of predicted layer times.

A run of a routine takes, by the model, flops / rate for its products, c for every number that it reads or writes
between them (loads that gather, transforms, epilogues), and that part theta of its memory time which the arithmetic
does not hide. Three reference layers tell the three apart: one with much arithmetic per number, one with little, both
near, and one whose weights lie in the last cache.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from pipeline.precision import _native
from pipeline.precision.plan import Dtype, Kind, Layer, WindowGeometry
from pipeline.precision.roofline import Attained, Roofs, Work, bound, routine_class, work_of
from pipeline.precision.routines import build, candidates
from pipeline.precision.sampling import Sampling, TimedRun, one_core

SAMPLING = Sampling(n_samples=15, seconds_per_sample=100e-6, seconds_at_most=0.5)


def measure_attained(roofs: Roofs) -> Roofs:
    """The roofs with what every class of routines attains beside them; takes about a second."""
    name = roofs.instruction_set
    attained: dict[str, Attained] = {}
    with one_core():
        [(_, empty)] = _timed([_pooling("max_pool2d", 1, 1)], "windows", 1, name)
        roofs = replace(roofs, call_seconds=empty)
        for kind, layers in _references().items():
            for routine in candidates(layers[0], name):
                if routine_class(replace(layers[0], routine=routine), 1) in attained:
                    continue  # Winograd's transforms cost the same per number, however few channels there are
                for batch in (1, 64) if kind == "linear" else (1,):
                    runnable = [layer for layer in layers if routine in candidates(layer, name)]
                    pairs = _timed(runnable, routine, batch, name)
                    attained[pairs[0][0].routine] = fit(pairs, roofs)
        roofs = replace(roofs, attained=attained)
        near = _stored(replace(_convolution(288, 8), routine="direct fp16"))
        # Twice what the last cache holds, in binary16, or as much as memory should be asked for.
        n_weights = min(max(roofs.cache_bytes.values()), 128 << 20)
        far = _stored(replace(_linear(4096, n_weights // 4096), routine="product fp16"))
        return replace(
            roofs, wake_seconds=_wake_seconds(near, roofs), far_wake_seconds=_wake_seconds(far, roofs)
        )


def _wake_seconds(large: Layer, roofs: Roofs) -> float:
    """How much longer a small layer takes behind one whose weights fill the caches than by itself."""
    channels = large.output_shape[0]
    size = 8 if len(large.output_shape) == 3 else 1
    small = _stored(replace(_pooling("adaptive_avg_pool2d", channels, size), routine="windows"))
    layers = [build(layer, _parameters(layer), roofs.instruction_set) for layer in (large, small)]
    network = _native.Network([(layers[0], 0, -1), (layers[1], 1, -1)], 1)
    x = torch.ones(1, math.prod(large.input_shape), dtype=torch.float16)
    y = torch.empty(1, math.prod(small.output_shape), dtype=torch.float16)
    run = functools.partial(network.seconds_per_step, x, y)
    behind = float(np.median(SAMPLING.in_network({"both": run})["both"].seconds[:, 1]))
    [(_, alone)] = _timed([small], "windows", 1, roofs.instruction_set)
    return max(behind - alone, 0.0)


def fit(pairs: list[tuple[Work, float]], roofs: Roofs) -> Attained:
    """Solve the model for the work and the seconds of one to three reference layers, in the module's order.

    Each figure is kept in its physical range: no rate above the peak, no negative costs, theta in [0, 1].
    """
    near = pairs[:2]
    peak = 1 / roofs.peak(pairs[0][0].routine)
    taken = [max(seconds - roofs.call_seconds, 1e-9) for _, seconds in pairs]
    if len(near) == 1:
        per_flop, per_number = peak, max(taken[0] - near[0][0].flops * peak, 0.0) / near[0][0].numbers
    else:
        matrix = np.array([[work.flops, work.numbers] for work, _ in near])
        per_flop, per_number = np.linalg.solve(matrix, np.array(taken[:2]))
        if per_number < 0:
            per_flop, per_number = taken[0] / near[0][0].flops, 0.0
        if per_flop < peak:
            per_flop, per_number = peak, max(taken[1] - near[1][0].flops * peak, 0.0) / near[1][0].numbers
    exposed = 0.0
    if len(pairs) == 3:
        work = pairs[2][0]
        hidden = work.flops * per_flop + work.numbers * per_number
        exposed = min(max((taken[2] - hidden) / bound(work, roofs).memory, 0.0), 1.0)
    return Attained(1e-9 / per_flop, per_number, exposed)


def _references() -> dict[str, tuple[Layer, ...]]:
    """Reference layers by kind: much arithmetic per number, little of it, and weights in the last cache.

    Their sizes are such as networks rarely have, so that predictions are seldom of the layer that they were fitted to.
    """
    return {
        "conv2d": (_convolution(96, 20), _convolution(32, 32), _convolution(288, 8)),
        "narrow": (_convolution(4, 32, outputs=64),),
        # Strides read more numbers for each result.
        "depthwise": (_convolution(80, 24, groups=80), _convolution(80, 40, groups=80, stride=2)),
        **{
            f"groups of {width}": (
                _convolution(80, 12, groups=80 // width),
                _convolution(80, 20, groups=80 // width, stride=2),
            )
            for width in (2, 4, 8)
        },
        "linear": (_linear(256, 256), _linear(64, 128), _linear(1536, 2560)),
        "max_pool2d": (_pooling("max_pool2d", 64, 16),),
        "avg_pool2d": (_pooling("avg_pool2d", 64, 16),),
        "adaptive_avg_pool2d": (_pooling("adaptive_avg_pool2d", 64, 16),),
        "add": (Layer("sum", "add", "given", (64, 16, 16), (64, 16, 16), addend="given"),),
    }


def _convolution(
    channels: int, size: int, groups: int = 1, outputs: int | None = None, stride: int = 1
) -> Layer:
    geometry = WindowGeometry((3, 3), (stride, stride), (1, 1), groups=groups)
    results = (outputs or channels, size // stride, size // stride)
    return Layer("reference", "conv2d", "given", (channels, size, size), results, geometry)


def _linear(inputs: int, outputs: int) -> Layer:
    return Layer("reference", "linear", "given", (inputs,), (outputs,))


def _pooling(kind: Kind, channels: int, size: int) -> Layer:
    half = max(size // 2, 1)
    geometry = (
        None
        if kind == "adaptive_avg_pool2d"
        else WindowGeometry((size // half,) * 2, (size // half,) * 2, (0, 0))
    )
    return Layer("reference", kind, "given", (channels, size, size), (channels, half, half), geometry)


def _timed(
    layers: Sequence[Layer], routine: str, batch: int, instruction_set: str
) -> list[tuple[Work, float]]:
    """The work of layers that stand between others, and their median seconds; they take turns."""
    work, sides = [], {}
    for number, layer in enumerate(layers):
        layer = replace(layer, routine=routine)
        layer = layer.in_single() if routine.endswith("fp32") else _stored(layer)
        native = build(layer, _parameters(layer), instruction_set)
        x = torch.ones(batch, math.prod(layer.input_shape), dtype=getattr(torch, layer.input_dtype))
        y = torch.empty(batch, math.prod(layer.output_shape), dtype=getattr(torch, layer.output_dtype))
        work.append(work_of(layer, native, batch))
        residual = None if layer.addend is None else x
        sides[str(number)] = functools.partial(native.seconds, x, y, residual=residual)
    samples = SAMPLING({name: _repeated(side) for name, side in sides.items()})
    return [(one, float(np.median(of.seconds))) for one, of in zip(work, samples.values(), strict=True)]


def _repeated(side: Callable[..., float]) -> TimedRun:
    return lambda repeats: side(repeats=repeats)


def _stored(layer: Layer) -> Layer:
    """The layer with all its activations in half precision."""
    half: Dtype = "float16"
    return replace(layer, input_dtype=half, addend_dtype=half, output_dtype=half)


def _parameters(layer: Layer) -> dict[str, torch.Tensor]:
    if not layer.has_weights:
        return {}
    weight = torch.full(layer.weight_shape, 2.0**-8, dtype=getattr(torch, layer.weight_dtype))
    return {"reference.weight": weight, "reference.bias": torch.zeros(layer.output_shape[0])}
