"""What each class of routines attains on small reference layers: the measured side of predicted layer times.

In the model, the time of a run has three parts: FLOPs / rate for the products; a cost c for every number loaded and d
for every number written between products (gathering loads, transforms, epilogues); and the part theta of the memory
time that the arithmetic does not hide. Reference layers separate these parts: they have much or little arithmetic per
number, on data in near or far memory. Networks rarely have layers of their sizes; see `references`.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.precision import _native
from pipeline.precision.plan import FUNCTIONS, Dtype, Layer
from pipeline.precision.references import FAMILIES, Family, convolution, linear, pooling, twice_as_large
from pipeline.precision.roofline import PAGE, Attained, Roofs, bound, kept_bytes
from pipeline.precision.routines import build, candidates
from pipeline.precision.sampling import Sampling, TimedRun, one_core
from pipeline.precision.work import Work, work_of

SAMPLING = Sampling(n_samples=15, seconds_per_sample=100e-6, seconds_at_most=0.5)
PAUSE = 5e-3  # seconds in which other programs may use the last cache; some networks take that long
WAKING = Sampling(n_samples=75, seconds_at_most=1.0)  # each sample is one run


def measure_attained(roofs: Roofs) -> Roofs:
    """Add to the roofs what every class of routines attains; takes some seconds."""
    name = roofs.instruction_set
    attained: dict[str, Attained] = {}
    with one_core():
        [(_, empty)] = _timed([pooling("max_pool2d", 1, 1)], 1, name)
        roofs = replace(roofs, call_seconds=empty)
        for family in FAMILIES:
            for layers in _variants(family, name):
                for batch in family.batches:
                    pairs = _timed(layers, batch, name)
                    attained.setdefault(pairs[0][0].routine, fit(pairs, roofs))
        roofs = replace(roofs, attained=attained)
        roofs = replace(roofs, functions=_functions(roofs))
        close, near = (_stored(replace(convolution(n, 8), routine="direct fp16")) for n in (64, 288))
        # In binary16, twice what the last cache holds, but no more memory than is reasonable.
        n_weights = min(max(roofs.cache_bytes.values()), 128 << 20)
        far = _stored(replace(linear(4096, n_weights // 4096), routine="product fp16"))
        close_wake, wake, far_wake = (_waking(layer, roofs) for layer in (close, near, far))
        return _keeping(
            replace(roofs, close_wake_seconds=close_wake, wake_seconds=wake, far_wake_seconds=far_wake)
        )


def _variants(family: Family, instruction_set: str) -> Iterator[list[Layer]]:
    """Yield a family's layers on each routine, with activations in half precision or at float32."""
    for routine in candidates(family.layers[0], instruction_set):
        if not routine.startswith(family.routines):
            continue
        layers = [
            replace(layer, routine=routine)
            for layer in family.layers
            if routine in candidates(layer, instruction_set)
        ]
        multiplies = family.layers[0].has_weights
        if not multiplies or not routine.endswith("fp32"):
            yield [_stored(layer) for layer in layers]
            if not multiplies:
                yield [layer.in_single() for layer in layers]
        else:
            yield [layer.in_single() for layer in layers]
            yield [_stored(replace(layer, weight_dtype="float32")) for layer in layers]


def _functions(roofs: Roofs) -> dict[str, float]:
    """Return the seconds that each function takes per number, without loading and storing it."""
    shape = (32, 8, 8)
    plain = roofs.attained["multiply"]
    layers = {
        name: _stored(
            Layer("reference", "activation", "given", shape, shape, function=name, constants=(-1.0, 1.0))
        )
        for name in FUNCTIONS
    }
    timed = zip(layers, _timed(list(layers.values()), 1, roofs.instruction_set), strict=True)
    moved = roofs.call_seconds + math.prod(shape) * (plain.seconds_per_number + plain.seconds_per_result)
    return {name: max(seconds - moved, 0.0) / math.prod(shape) for name, (_, seconds) in timed}


def _waking(large: Layer, roofs: Roofs) -> float:
    """Return how many seconds longer a small layer takes after one with many weights than by itself."""
    channels = large.output_shape[0]
    size = large.output_shape[1] if len(large.output_shape) == 3 else 1
    small = _stored(replace(pooling("adaptive_avg_pool2d", channels, size, size), routine="windows"))
    layers = [build(layer, _parameters(layer), roofs.instruction_set) for layer in (large, small)]
    network = _native.Network([(layers[0], 0, -1), (layers[1], 1, -1)], 1)
    x = torch.ones(1, math.prod(large.input_shape), dtype=torch.float16)
    y = torch.empty(1, math.prod(small.output_shape), dtype=torch.float16)
    run = functools.partial(network.seconds_per_step, x, y)
    behind = float(np.median(WAKING.in_network({"both": run})["both"].seconds[:, 1]))
    [(_, alone)] = _timed([small], 1, roofs.instruction_set)
    return max(behind - alone, 0.0)


def _keeping(roofs: Roofs) -> Roofs:
    """Add to the roofs what the last cache keeps, and the cost of pages of weights in it or in memory.

    The time of a small layer shows where its weights were. Between its runs nothing happens, as many bytes are read as
    the last cache holds, four times as many are read, or time passes; then the second-level cache is filled with other
    numbers.
    """
    last = max(roofs.cache_bytes.values())
    layer = replace(linear(384, 96), routine="product fp32").in_single()
    native = build(layer, _parameters(layer), roofs.instruction_set)
    x, y = torch.ones(1, 384), torch.empty(1, 96)
    numbers = torch.ones(min(4 * last, 1 << 30) // 4)
    second = numbers[: 2 * list(roofs.cache_bytes.values())[1] // 4]

    def after(event: Callable[[], object]) -> float:
        taken = []
        for _ in range(25):
            event()
            second.sum()
            taken.append(float(native.seconds(x, y, 1)))
        return float(np.median(taken))

    def pause() -> None:
        end = time.perf_counter() + PAUSE
        while time.perf_counter() < end:
            pass

    close, far = after(lambda: None), after(numbers.sum)
    work = work_of(layer, native, 1)
    pages = work.weight_bytes / PAGE
    hidden = (
        bound(work, roofs, mode="network", resident=2.0 * list(roofs.cache_bytes.values())[1]),
        bound(work, roofs, mode="cold"),
    )
    near_page, far_page = (
        max(seconds - limit.predicted, 0.0) / pages
        for seconds, limit in zip((close, far), hidden, strict=True)
    )
    roofs = replace(roofs, page_seconds=near_page, far_page_seconds=far_page)
    if far <= 1.5 * close:  # memory and cache differ too little to tell them apart
        return roofs
    full, paused = (
        1.0 - min(max((after(event) - close) / (far - close), 0.0), 1.0)
        for event in (numbers[: last // 4].sum, pause)
    )
    return replace(
        roofs,
        kept_bytes=min(kept_bytes(last, full), float(last)),
        kept_seconds=PAUSE / -math.log(min(max(paused, 0.02), 0.999)),
    )


def fit(pairs: Sequence[tuple[Work, float]], roofs: Roofs) -> Attained:
    """Fit the model to the work and the seconds of reference layers, by least squares of relative errors.

    Each figure is kept in its physical range: no rate above the peak, no negative costs, theta in [0, 1]. One layer
    determines the cost of a number only, two also the rate, three also the exposed part. With fewer than four layers,
    numbers that are read and numbers that are written cost the same.
    """
    n = len(pairs)
    taken = np.array([max(seconds - roofs.call_seconds, 1e-9) for _, seconds in pairs])
    peak = 1.0 / roofs.peak(pairs[0][0].routine)
    slots = np.array([work.slots or work.flops for work, _ in pairs])
    numbers, results = (
        np.array([getattr(work, part) for work, _ in pairs]) for part in ("numbers", "results")
    )
    memory = np.array([bound(work, roofs).streamed for work, _ in pairs])
    multiplies = any(work.slots for work, _ in pairs)
    columns = [numbers, results] if n > 3 else [numbers + results]
    upper = [np.inf] * len(columns)
    if n > 2:
        columns, upper = [*columns, memory], [*upper, 1.0]
    if n > 1 and multiplies:
        columns, upper = [*columns, slots], [*upper, np.inf]  # the time beyond that at the peak
    matrix = np.stack(columns, axis=1) / taken[:, None]
    rest = np.maximum(1.0 - slots * peak / taken, 0.0)
    found = scaled_least_squares(matrix, rest, np.array(upper))
    per_number, per_result = found[0], found[1] if n > 3 else found[0]
    exposed = found[2 if n > 3 else 1] if n > 2 else 0.0
    per_flop = peak + (found[-1] if n > 1 and multiplies else 0.0)
    return Attained(1e-9 / per_flop, per_number, exposed, per_result)


def scaled_least_squares(
    matrix: NDArray[np.float64], right: NDArray[np.float64], upper: NDArray[np.float64]
) -> list[float]:
    """Solve least squares with unknowns from zero to `upper`, with scaled columns: their sizes differ by many
    orders."""
    from scipy.optimize import lsq_linear  # slow to import, and a network runs without it

    scale = np.maximum(np.abs(matrix).max(0), 1e-300)
    found = lsq_linear(matrix / scale, right, bounds=(0.0, upper * scale), method="bvls").x / scale
    return [float(value) for value in found]


def _timed(layers: Sequence[Layer], batch: int, instruction_set: str) -> list[tuple[Work, float]]:
    """Return the work of layers and their median seconds; the layers take turns."""
    work, sides = [], {}
    for number, layer in enumerate(layers):
        native = build(layer, _parameters(layer), instruction_set)
        x = torch.ones(batch, math.prod(layer.input_shape), dtype=getattr(torch, layer.input_dtype))
        y = torch.empty(batch, math.prod(layer.output_shape), dtype=getattr(torch, layer.output_dtype))
        work.append(work_of(layer, native, batch))
        n_added = layer.addend_size or (layer.n_addend if layer.addend is not None else 0)
        added = torch.ones(batch, n_added, dtype=getattr(torch, layer.addend_dtype)) if n_added else None
        sides[str(number)] = functools.partial(native.seconds, x, y, residual=added)
    samples = SAMPLING({name: _repeated(side) for name, side in sides.items()})
    return [(one, float(np.median(of.seconds))) for one, of in zip(work, samples.values(), strict=True)]


def _repeated(side: Callable[..., float]) -> TimedRun:
    return lambda repeats: side(repeats=repeats)


def _stored(layer: Layer) -> Layer:
    """The layer with all its activations in half precision."""
    half: Dtype = "float16"
    return replace(layer, input_dtype=half, addend_dtype=half, output_dtype=half)


def _parameters(layer: Layer) -> dict[str, torch.Tensor]:
    if layer.kind == "gather":
        return {"reference.index": twice_as_large(layer)}
    if layer.is_normalization:
        return {f"reference.{part}": torch.ones(layer.input_shape[0]) for part in ("weight", "bias")}
    if not layer.has_weights:
        return {}
    weight = torch.full(layer.weight_shape, 2.0**-8, dtype=getattr(torch, layer.weight_dtype))
    return {"reference.weight": weight, "reference.bias": torch.zeros(layer.output_shape[0])}
