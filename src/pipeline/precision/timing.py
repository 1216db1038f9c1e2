"""How long each layer takes in half precision, in float32 and in torch, and why."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.precision.attained import measure_attained
from pipeline.precision.plan import INPUT, Layer
from pipeline.precision.reason import Side, reason
from pipeline.precision.reference import apply
from pipeline.precision.roofline import Mode, Roofs, Term, bound, measure_roofs, work_of
from pipeline.precision.routines import Execution
from pipeline.precision.sampling import Samples, Sampling, interval, one_core


@dataclass(frozen=True)
class LayerTiming:
    """One layer at one batch size. Seconds are medians over runs of the whole batch on one core.

    Attributes:
        layer: The layer's name.
        kind: What it computes.
        batch: Samples per run.
        mode: "warm": run again and again; "cold": with nothing in the caches; "network": between the other layers.
        routine: What the plan calls the half-precision routine.
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
        predicted_speedup: predicted_seconds_fp32 / predicted_seconds_fp16.
        predicted_seconds_fp32: By the roofs and what each class of routines attains; see `roofline`.
        predicted_seconds_fp16: The same.
        bound_seconds_fp32: The least that the roofs allow.
        bound_seconds_fp16: The same.
        flops: Algorithmic, of the whole batch: what the layer's definition takes.
        executed_flops: Of the half-precision routine.
        bytes_fp32: Weights as packed, inputs, addends and outputs of the whole batch, each once.
        bytes_fp16: The same.
        traffic_fp32: Bytes by the cache level that they come from, workspace included.
        traffic_fp16: The same.
        intensity: flops / bytes_fp16.
        gflops: Algorithmic, attained in half precision, 1e9 FLOP/s.
        gbytes: Attained in half precision, 1e9 bytes/s.
        gflops_fp32: Attained in float32.
        gbytes_fp32: Attained in float32.
        bound: The roof that limits half precision.
        bound_fp32: The roof that limits float32.
        level: Where the half-precision numbers lie.
        reason: One sentence.
        n_samples: Samples of half precision that count.
        n_dropped: Disturbed samples that were dropped, of both precisions.
        n_disturbed: Disturbed samples that count nevertheless, of both precisions, as there were hardly any others.
        cpu_share_fp32: CPU time of the thread over wall time, median over the samples (in the network, of all layers).
        cpu_share_fp16: The same.
    """

    layer: str
    kind: str
    batch: int
    mode: Mode
    routine: str
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
    predicted_seconds_fp32: float
    predicted_seconds_fp16: float
    bound_seconds_fp32: float
    bound_seconds_fp16: float
    flops: int
    executed_flops: int
    bytes_fp32: int
    bytes_fp16: int
    traffic_fp32: Mapping[str, float]
    traffic_fp16: Mapping[str, float]
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
    n_disturbed: int
    cpu_share_fp32: float
    cpu_share_fp16: float

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
    twice the last cache is read before each run, so that weights and activations come from memory. In the network,
    whole networks run in turn, and every layer's part of them is timed.

    Args:
        half: The network in half precision.
        single: Its float32 twin.
        parameters: Complete float32 parameters, for torch.
        inputs: Shape (n, channels, rows, columns), n >= 1; repeated where a batch is larger.
        batch_sizes: Samples per run.
        mode: "warm", "cold" or "network".
        roofs: The limits; measured here if None.
        sampling: How to sample; its defaults if None.
        on_timing: Told each row as it is made.

    Raises:
        ValueError: If the inputs do not fit the network, or a batch size or the mode is none.
    """
    half.check(inputs)
    if len(inputs) == 0:
        raise ValueError("timing needs at least one input")
    if min(batch_sizes, default=0) < 1:
        raise ValueError(f"batch sizes are numbers of at least 1, found {tuple(batch_sizes)}")
    if mode not in get_args(Mode):
        raise ValueError(f"a mode is one of {', '.join(get_args(Mode))}; found {mode!r}")
    sampling = sampling or Sampling()
    rows: list[LayerTiming] = []
    with one_core(), torch.inference_mode():
        roofs = roofs or measure_attained(measure_roofs(half.instruction_set))
        for batch in batch_sizes:
            x = inputs[torch.arange(batch) % len(inputs)]
            sample = _network_samples if mode == "network" else _layer_samples
            for place, taken in enumerate(sample(half, single, parameters, x, mode, roofs, sampling)):
                row = _timing(half, single, place, batch, mode, roofs, taken)
                rows.append(row)
                if on_timing is not None:
                    on_timing(row)
    return rows


@dataclass(frozen=True)
class _Taken:
    """Samples of one layer by side ("fp32", "fp16", "torch"), and torch's routine."""

    samples: Mapping[str, Samples]
    routine_torch: str


def _layer_samples(
    half: Execution,
    single: Execution,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    mode: Mode,
    roofs: Roofs,
    sampling: Sampling,
) -> Iterator[_Taken]:
    """Sample every layer by itself."""
    chill = _chill(roofs) if mode == "cold" else None
    values = {INPUT: x} | dict(
        zip((layer.name for layer in single.layers), single.activations(x), strict=True)
    )
    steps = zip(half.layers, half.native, half.steps(x), single.native, single.steps(x), strict=True)
    for layer, native, buffers, native_single, buffers_single in steps:
        addend = None if layer.addend is None else values[layer.addend]
        peer, routine_torch = _torch_side(layer, parameters, values[layer.source], addend)
        sides: dict[str, Callable[[int], float]] = {
            "fp32": _native_side(native_single, buffers_single),
            "fp16": _native_side(native, buffers),
            "torch": peer,
        }
        yield _Taken(sampling(sides, chill=chill), routine_torch)


def _network_samples(
    half: Execution,
    single: Execution,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    mode: Mode,
    roofs: Roofs,
    sampling: Sampling,
) -> Iterator[_Taken]:
    """Sample every layer while whole networks run."""
    peer = _TorchNetwork(half.layers, parameters, x)
    taken = sampling.in_network(
        {
            "fp32": functools.partial(single.seconds_per_step, x),
            "fp16": functools.partial(half.seconds_per_step, x),
            "torch": peer.seconds_per_step,
        }
    )
    for place in range(len(half.layers)):
        samples = {name: replace(s, seconds=s.seconds[:, place]) for name, s in taken.items()}
        yield _Taken(samples, f"torch eager fp32, {peer.memory_format}")


def _timing(
    half: Execution, single: Execution, place: int, batch: int, mode: Mode, roofs: Roofs, taken: _Taken
) -> LayerTiming:
    """Join the samples of the three sides and what the roofs say about them into one row."""
    layer, samples = half.layers[place], taken.samples
    seconds = {name: of_side.seconds for name, of_side in samples.items()}
    sides = {}
    for name, execution in (("fp32", single), ("fp16", half)):
        native = execution.native[place]
        work = work_of(execution.layers[place], native, batch)
        limit = bound(work, roofs, mode=mode, resident=execution.resident_bytes(batch))
        sides[name] = Side(work, limit, float(np.median(seconds[name])), native.routine(batch))
    one, two = sides["fp32"], sides["fp16"]
    torch_median = float(np.median(seconds["torch"]))
    generator = np.random.default_rng(0)
    of_median = {name: interval(_medians, seconds[name], generator=generator) for name in sides}
    of_speedup = interval(_ratio_of_medians, seconds["fp32"], seconds["fp16"], generator=generator)
    flops = batch * layer.flops
    return LayerTiming(
        layer=layer.name,
        kind=layer.kind,
        batch=batch,
        mode=mode,
        routine=layer.routine,
        routine_fp32=one.routine,
        routine_fp16=two.routine,
        routine_torch=taken.routine_torch,
        seconds_fp32=one.seconds,
        seconds_fp16=two.seconds,
        seconds_torch=torch_median,
        min_fp32=float(seconds["fp32"].min()),
        min_fp16=float(seconds["fp16"].min()),
        interval_fp32=of_median["fp32"],
        interval_fp16=of_median["fp16"],
        speedup=one.seconds / two.seconds,
        interval=of_speedup,
        speedup_torch=torch_median / two.seconds,
        predicted_speedup=one.bound.predicted / two.bound.predicted,
        predicted_seconds_fp32=one.bound.predicted,
        predicted_seconds_fp16=two.bound.predicted,
        bound_seconds_fp32=one.bound.seconds,
        bound_seconds_fp16=two.bound.seconds,
        flops=flops,
        executed_flops=int(two.work.flops),
        bytes_fp32=int(one.work.n_bytes),
        bytes_fp16=int(two.work.n_bytes),
        traffic_fp32={str(level): n for level, n in one.bound.traffic.items()},
        traffic_fp16={str(level): n for level, n in two.bound.traffic.items()},
        intensity=flops / two.work.n_bytes,
        gflops=flops / two.seconds / 1e9,
        gbytes=two.work.n_bytes / two.seconds / 1e9,
        gflops_fp32=flops / one.seconds / 1e9,
        gbytes_fp32=one.work.n_bytes / one.seconds / 1e9,
        bound=two.bound.term,
        bound_fp32=one.bound.term,
        level=two.bound.level,
        reason=reason(one, two, of_speedup, roofs, cold=mode == "cold", flops=flops),
        n_samples=len(seconds["fp16"]),
        n_dropped=samples["fp16"].n_dropped + samples["fp32"].n_dropped,
        n_disturbed=samples["fp16"].n_disturbed + samples["fp32"].n_disturbed,
        cpu_share_fp32=samples["fp32"].cpu_share,
        cpu_share_fp16=samples["fp16"].cpu_share,
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


def _native_side(native: Any, buffers: tuple[Tensor, Tensor, Tensor | None]) -> Callable[[int], float]:
    given, result, addend = buffers
    return lambda repeats: native.seconds(given, result, repeats, addend)


FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def _torch_side(
    layer: Layer, parameters: Mapping[str, Tensor], x: Tensor, addend: Tensor | None
) -> tuple[Callable[[int], float], str]:
    """Torch's own float32 run of a layer, in the memory format in which it is faster."""
    sides = {}
    for name, memory_format in FORMATS.items():
        own = _formatted(layer, parameters, memory_format)
        given, added = (_laid_out(value, memory_format) for value in (x, addend))
        assert given is not None
        sides[name] = _repeat(functools.partial(apply, layer, own, given, added))
        if x.ndim < 4:
            break
    least = {name: min(side(1) for _ in range(4)) for name, side in sides.items()}
    best = min(least, key=lambda name: least[name])
    return sides[best], f"torch eager fp32, {best}"


class _TorchNetwork:
    """Torch's own float32 run of all layers, in the memory format in which it is faster."""

    def __init__(self, layers: Sequence[Layer], parameters: Mapping[str, Tensor], x: Tensor) -> None:
        self.layers = layers
        self._own: dict[str, tuple[dict[str, Tensor], Tensor]] = {}
        for name, memory_format in FORMATS.items():
            own: dict[str, Tensor] = {}
            for layer in layers:
                own |= _formatted(layer, parameters, memory_format)
            given = _laid_out(x, memory_format)
            assert given is not None
            self._own[name] = own, given
        least = {}
        for name in FORMATS:
            self.memory_format = name
            least[name] = min(sum(self.seconds_per_step()) for _ in range(4))
        self.memory_format = min(least, key=lambda name: least[name])

    def seconds_per_step(self) -> list[float]:
        parameters, x = self._own[self.memory_format]
        values, seconds = {INPUT: x}, []
        for layer in self.layers:
            addend = None if layer.addend is None else values[layer.addend]
            start = time.perf_counter()
            values[layer.name] = apply(layer, parameters, values[layer.source], addend)
            seconds.append(time.perf_counter() - start)
        return seconds


def _formatted(
    layer: Layer, parameters: Mapping[str, Tensor], memory_format: torch.memory_format
) -> dict[str, Tensor]:
    """A layer's parameters, those of a convolution in a memory format."""
    if not layer.has_weights:
        return {}
    names = [f"{layer.name}.{part}" for part in ("weight", "bias")]
    own = {name: parameters[name] for name in names}
    if layer.kind == "conv2d":
        own[names[0]] = own[names[0]].contiguous(memory_format=memory_format)
    return own


def _laid_out(x: Tensor | None, memory_format: torch.memory_format) -> Tensor | None:
    if x is None or x.ndim < 4:
        return x if x is None else x.contiguous()
    return x.contiguous(memory_format=memory_format)


def _repeat(run: Callable[[], Tensor]) -> Callable[[int], float]:
    def side(repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        return time.perf_counter() - start

    return side
