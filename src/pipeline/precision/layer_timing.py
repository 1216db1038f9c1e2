"""One row of the timing table: a layer's time on three sides, what the roofs allow, and why."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.precision.execution import Execution
from pipeline.precision.reason import TimedPrecision, reason
from pipeline.precision.roofline import Mode, RooflineTerm, Roofs, bound
from pipeline.precision.sampling import TimeSamples, interval
from pipeline.precision.work import work_of


@dataclass(frozen=True)
class LayerTiming:
    """One layer at one batch size. Seconds are medians over runs of the whole batch on one core.

    Attributes:
        layer: The layer's name.
        kind: What it computes.
        batch: Samples per run.
        mode: "warm": run again and again; "cold": with nothing in the caches; "network": between the other layers.
        routine: The half-precision routine as the plan names it.
        routine_fp32: The routine that ran on the float32 side.
        routine_fp16: The routine that ran on the half-precision side.
        routine_torch: What ran in torch: eager float32 in the faster of its memory formats.
        seconds_fp32: Median in float32.
        seconds_fp16: Median in half precision.
        seconds_torch: Median in torch.
        min_fp32: Smallest sample in float32.
        min_fp16: Smallest sample in half precision.
        interval_fp32: Bootstrap 95 % interval of the median in float32.
        interval_fp16: The same in half precision.
        speedup: seconds_fp32 / seconds_fp16.
        interval: Bootstrap 95 % interval of the speedup.
        speedup_torch: seconds_torch / seconds_fp16.
        predicted_speedup: predicted_seconds_fp32 / predicted_seconds_fp16.
        predicted_seconds_fp32: Time predicted from the roofs and what each class of routines attains; see `roofline`.
        predicted_seconds_fp16: The same in half precision.
        bound_seconds_fp32: The least time that the roofs allow in float32.
        bound_seconds_fp16: The same in half precision.
        flops: FLOPs of the layer's definition, for the whole batch.
        executed_flops: FLOPs that the half-precision routine executes.
        bytes_fp32: Weights as packed, inputs, addends and outputs of the whole batch, each once.
        bytes_fp16: The same in half precision.
        traffic_fp32: Bytes by the cache level that they come from, workspace included.
        traffic_fp16: The same in half precision.
        intensity: flops / bytes_fp16.
        gflops: Rate of `flops` attained in half precision, in 1e9 FLOP/s.
        gbytes: Rate of `bytes_fp16` attained in half precision, in 1e9 bytes/s.
        gflops_fp32: Rate of `flops` attained in float32.
        gbytes_fp32: Rate of `bytes_fp32` attained in float32.
        bound: The roof that limits half precision.
        bound_fp32: The roof that limits float32.
        level: The level of memory that holds the half-precision numbers.
        reason: Explanation of the speedup in one sentence.
        n_samples: Samples of half precision that were used.
        n_dropped: Disturbed samples that were dropped, of both precisions.
        n_disturbed: Disturbed samples that were used because there were too few others, of both precisions.
        cpu_share_fp32: CPU time of the thread over wall time, median over the samples (in the network, of all layers).
        cpu_share_fp16: The same in half precision.
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
    bound: RooflineTerm
    bound_fp32: RooflineTerm
    level: str
    reason: str
    n_samples: int
    n_dropped: int
    n_disturbed: int
    cpu_share_fp32: float
    cpu_share_fp16: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def layer_timing(
    half: Execution,
    single: Execution,
    place: int,
    *,
    batch: int,
    mode: Mode,
    roofs: Roofs,
    samples: Mapping[str, TimeSamples],
    routine_torch: str,
    periods: Mapping[str, float] | None = None,
) -> LayerTiming:
    """Join the samples of the three sides and what the roofs say about them into one row.

    Args:
        half: The network in half precision.
        single: Its float32 twin.
        place: Number of the layer in both.
        batch: Samples per run.
        mode: What ran before: "warm", "cold" or "network".
        roofs: The limits.
        samples: Times of each side: "fp32", "fp16", "torch".
        routine_torch: What ran in torch.
        periods: Predicted seconds of a run of the whole network, by side, if the mode is "network".
    """
    layer = half.layers[place]
    seconds = {name: of_side.seconds for name, of_side in samples.items()}
    sides = {}
    for name, execution in (("fp32", single), ("fp16", half)):
        native = execution.native[place]
        strips = execution.strips[place] if mode == "network" else None
        work = work_of(execution.layers[place], native, batch, strips)
        resident, period = execution.resident_bytes(batch), (periods or {}).get(name, 0.0)
        limit = bound(work, roofs, mode=mode, resident=resident, period=period)
        sides[name] = TimedPrecision(work, limit, float(np.median(seconds[name])), native.routine(batch))
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
        routine_torch=routine_torch,
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


def predicted_seconds(execution: Execution, batch: int, roofs: Roofs) -> float:
    """Predict the seconds of a run of the whole network if no other program uses the last cache."""
    resident = execution.resident_bytes(batch)
    steps = zip(execution.layers, execution.native, execution.strips, strict=True)
    return sum(
        bound(work_of(layer, native, batch, strips), roofs, mode="network", resident=resident).predicted
        for layer, native, strips in steps
    )


def _medians(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.median(samples, axis=1))


def _ratio_of_medians(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return _medians(above) / _medians(below)
