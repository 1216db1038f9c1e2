"""How long each layer takes in half precision, in float32 and in torch, and why."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.precision.plan import Layer, Precision
from pipeline.precision.reason import Side, reason
from pipeline.precision.reference import apply
from pipeline.precision.roofline import Roofs, Term, Work, bound, measure_roofs
from pipeline.precision.routines import Execution
from pipeline.precision.sampling import Sampling, interval, one_core

Mode = Literal["warm", "cold"]


@dataclass(frozen=True)
class LayerTiming:
    """One layer at one batch size. Seconds are medians over runs of the whole batch on one core.

    Attributes:
        layer: The layer's name.
        kind: What it computes.
        batch: Samples per run.
        mode: "warm": run again and again; "cold": with nothing in the caches.
        routine_fp32: The routine that ran on the float32 side.
        routine_fp16: The routine that ran on the half-precision side.
        routine_torch: What torch was asked for: eager float32 in the faster of its memory formats.
        seconds_fp32: Median.
        seconds_fp16: Median.
        seconds_torch: Median.
        min_fp32: The least that was seen.
        min_fp16: The least that was seen.
        interval_fp32: Bootstrap 95 % interval of the median.
        interval_fp16: The same.
        speedup: seconds_fp32 / seconds_fp16.
        interval: Bootstrap 95 % interval of the speedup.
        speedup_torch: seconds_torch / seconds_fp16.
        predicted_speedup: bound_seconds_fp32 / bound_seconds_fp16.
        bound_seconds_fp32: The least that the roofs allow.
        bound_seconds_fp16: The same.
        flops: Algorithmic, of the whole batch.
        bytes_fp32: Parameters, inputs and outputs of the whole batch, each once.
        bytes_fp16: The same.
        intensity: flops / bytes_fp16.
        gflops: Attained in half precision, 1e9 FLOP/s.
        gbytes: Attained in half precision, 1e9 bytes/s.
        gflops_fp32: Attained in float32.
        gbytes_fp32: Attained in float32.
        bound: The roof that limits half precision.
        bound_fp32: The roof that limits float32.
        level: Where the half-precision numbers lie.
        reason: One sentence.
        n_samples: Undisturbed samples of half precision.
        n_dropped: Disturbed samples that were dropped, of both precisions.
    """

    layer: str
    kind: str
    batch: int
    mode: Mode
    routine_fp32: str
    routine_fp16: str
    routine_torch: str
    seconds_fp32: float
    seconds_fp16: float
    seconds_torch: float
    min_fp32: float
    min_fp16: float
    interval_fp32: tuple[float, float]
    interval_fp16: tuple[float, float]
    speedup: float
    interval: tuple[float, float]
    speedup_torch: float
    predicted_speedup: float
    bound_seconds_fp32: float
    bound_seconds_fp16: float
    flops: int
    bytes_fp32: int
    bytes_fp16: int
    intensity: float
    gflops: float
    gbytes: float
    gflops_fp32: float
    gbytes_fp32: float
    bound: Term
    bound_fp32: Term
    level: str
    reason: str
    n_samples: int
    n_dropped: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def time_layers(
    half: Execution,
    single: Execution,
    parameters: Mapping[str, Tensor],
    inputs: Tensor,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    mode: Mode = "warm",
    roofs: Roofs | None = None,
    sampling: Sampling | None = None,
    on_timing: Callable[[LayerTiming], None] | None = None,
) -> list[LayerTiming]:
    """Time every layer at every batch size, the sides in turn within one process and on one core.

    Each layer is given what it is given inside the network. Warm, it runs again and again on the same numbers. Cold,
    twice the last cache is read before each run, so that weights and activations come from memory.

    Args:
        half: The network in half precision.
        single: Its float32 twin.
        parameters: Complete float32 parameters, for torch.
        inputs: Shape (n, channels, rows, columns), n >= 1; repeated where a batch is larger.
        batch_sizes: Samples per run.
        mode: "warm" or "cold".
        roofs: The limits; measured here if None.
        sampling: How to sample; its defaults if None.
        on_timing: Told each row as it is made.
    """
    if len(inputs) == 0:
        raise ValueError("timing needs at least one input")
    sampling = sampling or Sampling()
    rows: list[LayerTiming] = []
    with one_core(), torch.inference_mode():
        roofs = roofs or measure_roofs(half.instruction_set)
        chill = _chill(roofs) if mode == "cold" else None
        for batch in batch_sizes:
            x = inputs[torch.arange(batch) % len(inputs)]
            steps = zip(half.layers, half.native, half.steps(x), single.native, single.steps(x), strict=True)
            images = [x, *single.activations(x)]
            for number, (layer, native, buffers, native_single, buffers_single) in enumerate(steps):
                peer, routine_torch = _torch_side(layer, parameters, images[number])
                sides: dict[str, Callable[[int], float]] = {
                    "fp32": functools.partial(native_single.seconds, *buffers_single),
                    "fp16": functools.partial(native.seconds, *buffers),
                    "torch": peer,
                }
                samples = sampling(sides, chill=chill)
                row = _timing(
                    layer,
                    batch,
                    mode,
                    roofs,
                    {name: s.seconds for name, s in samples.items()},
                    routines=(native_single.routine(batch), native.routine(batch), routine_torch),
                    conversions=native.conversions(batch),
                    n_dropped=samples["fp16"].n_dropped + samples["fp32"].n_dropped,
                )
                rows.append(row)
                if on_timing is not None:
                    on_timing(row)
    return rows


def _timing(
    layer: Layer,
    batch: int,
    mode: Mode,
    roofs: Roofs,
    seconds: Mapping[str, NDArray[np.float64]],
    *,
    routines: tuple[str, str, str],
    conversions: int,
    n_dropped: int,
) -> LayerTiming:
    """Join the samples of the three sides and what the roofs say about them into one row."""
    sides: dict[Precision, Side] = {}
    flops = batch * layer.flops
    names: tuple[Precision, Precision] = ("fp32", "fp16")
    for name in names:
        work = Work(flops, layer.n_bytes(batch, name), conversions if name == "fp16" else 0)
        sides[name] = Side(work, bound(work, roofs, cold=mode == "cold"), float(np.median(seconds[name])))
    single, half = sides["fp32"], sides["fp16"]
    torch_median = float(np.median(seconds["torch"]))
    generator = np.random.default_rng(0)
    of_median = {name: interval(_medians, seconds[name], generator=generator) for name in names}
    of_speedup = interval(_ratio_of_medians, seconds["fp32"], seconds["fp16"], generator=generator)
    return LayerTiming(
        layer=layer.name,
        kind=layer.kind,
        batch=batch,
        mode=mode,
        routine_fp32=routines[0],
        routine_fp16=routines[1],
        routine_torch=routines[2],
        seconds_fp32=single.seconds,
        seconds_fp16=half.seconds,
        seconds_torch=torch_median,
        min_fp32=float(seconds["fp32"].min()),
        min_fp16=float(seconds["fp16"].min()),
        interval_fp32=of_median["fp32"],
        interval_fp16=of_median["fp16"],
        speedup=single.seconds / half.seconds,
        interval=of_speedup,
        speedup_torch=torch_median / half.seconds,
        predicted_speedup=single.bound.seconds / half.bound.seconds,
        bound_seconds_fp32=single.bound.seconds,
        bound_seconds_fp16=half.bound.seconds,
        flops=flops,
        bytes_fp32=int(single.work.n_bytes),
        bytes_fp16=int(half.work.n_bytes),
        intensity=flops / half.work.n_bytes,
        gflops=flops / half.seconds / 1e9,
        gbytes=half.work.n_bytes / half.seconds / 1e9,
        gflops_fp32=flops / single.seconds / 1e9,
        gbytes_fp32=single.work.n_bytes / single.seconds / 1e9,
        bound=half.bound.term,
        bound_fp32=single.bound.term,
        level=half.bound.level,
        reason=reason(single, half, of_speedup, roofs, cold=mode == "cold"),
        n_samples=len(seconds["fp16"]),
        n_dropped=n_dropped,
    )


def _medians(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.median(samples, axis=1))


def _ratio_of_medians(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return _medians(above) / _medians(below)


def _chill(roofs: Roofs) -> Callable[[], None]:
    """Read more than the caches hold."""
    numbers = torch.ones(2 * max(roofs.cache_bytes.values()) // 4)

    def chill() -> None:
        numbers.sum()

    return chill


def _torch_side(
    layer: Layer, parameters: Mapping[str, Tensor], x: Tensor
) -> tuple[Callable[[int], float], str]:
    """Torch's own float32 run of a layer, in the memory format in which it is faster."""
    formats = {"contiguous": torch.contiguous_format}
    if x.ndim == 4 and layer.kind != "linear":
        formats["channels_last"] = torch.channels_last
    sides = {}
    for name, memory_format in formats.items():
        given = x.contiguous(memory_format=memory_format) if x.ndim == 4 else x.contiguous()
        own = {
            f"{layer.name}.{part}": parameters[f"{layer.name}.{part}"]
            for part in (("weight", "bias") if layer.has_weights else ())
        }
        if layer.kind == "conv2d":
            weight = own[f"{layer.name}.weight"]
            own[f"{layer.name}.weight"] = weight.contiguous(memory_format=memory_format)
        sides[name] = _repeat(functools.partial(apply, layer, own, given))
    least = {name: min(side(1) for _ in range(4)) for name, side in sides.items()}
    best = min(least, key=lambda name: least[name])
    return sides[best], f"torch eager fp32, {best}"


def _repeat(run: Callable[[], Tensor]) -> Callable[[int], float]:
    def side(repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        return time.perf_counter() - start

    return side
