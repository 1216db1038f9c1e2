"""Times of layers on a GPU: torch's own routines at four precisions and in two memory formats, by CUDA events.

What ran is read from the names of the kernels, whatever was asked for: a 16-bit convolution without tensor cores is
shown as such. On the CPU the same sweep runs with a wall clock, for tests only.
"""

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from pipeline.precision.error import relative_error
from pipeline.precision.plan import INPUT, Layer
from pipeline.precision.reference import FORMATS, bind, reference

PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
# How cuDNN, cuBLAS and CUTLASS call kernels that multiply matrix fragments: h884, s1688, hmma, 16816, gmma, tensorop.
TENSOR_CORE = re.compile(
    r"[hs](884|1688|16816)|[hi]mma|wgmma|gmma|tensorop|_tc_|xmma_.*(f16|bf16|tf32)", re.IGNORECASE
)


@dataclass(frozen=True)
class DeviceTiming:
    """One layer on a device at one precision, memory format and batch size.

    Attributes:
        layer: The layer's name.
        kind: What it computes.
        batch: Samples per run.
        device: The device's name.
        precision: "fp32", "tf32" (float32 storage, products of 10 bits), "fp16", "bf16".
        memory_format: "NCHW" or "channels_last".
        seconds: Median over the runs.
        speedup: Over fp32 in the faster of its formats.
        relative_error: |y - exact| / |exact| against float64, for exact inputs.
        kernels: Names of the kernels that ran, longest first.
        tensor_cores: Whether a kernel uses tensor cores by its name; None if no names are known.
    """

    layer: str
    kind: str
    batch: int
    device: str
    precision: str
    memory_format: str
    seconds: float
    speedup: float
    relative_error: float
    kernels: tuple[str, ...]
    tensor_cores: bool | None


def time_on_device(
    layers: Sequence[Layer],
    parameters: Mapping[str, Tensor],
    inputs: Tensor,
    device: torch.device,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    n_samples: int = 30,
) -> list[DeviceTiming]:
    """Time every layer on a device, fused as the plan says, with exact inputs.

    Args:
        layers: The plan.
        parameters: Complete float32 parameters.
        inputs: Shape (n, channels, rows, columns), n >= 1; repeated where a batch is larger.
        device: A CUDA device, or the CPU.
        batch_sizes: Samples per run.
        n_samples: Runs of each.
    """
    rows = []
    with torch.inference_mode():
        for batch in batch_sizes:
            x = inputs[torch.arange(batch) % len(inputs)]
            results = reference(layers, parameters, x)
            values = {INPUT: x.double()} | {layer.name: y for layer, y in zip(layers, results, strict=True)}
            for layer in layers:
                rows += _rows(layer, parameters, values, batch, device, n_samples)
    return rows


def _rows(
    layer: Layer,
    parameters: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    batch: int,
    device: torch.device,
    n_samples: int,
) -> list[DeviceTiming]:
    """All precisions and formats of one layer."""
    found: dict[tuple[str, str], tuple[float, float, tuple[str, ...]]] = {}
    exact = values[layer.name]
    for precision, dtype in PRECISIONS.items():
        if precision == "tf32" and device.type != "cuda":
            continue
        for name, memory_format in FORMATS.items():
            if name == "channels_last" and values[layer.source].ndim < 4:
                continue
            place = functools.partial(_placed, dtype=dtype, device=device, memory_format=memory_format)
            own = {
                key: place(value) if value.is_floating_point() else value.to(device)
                for key, value in parameters.items()
                if key.rpartition(".")[0] == layer.name
            }
            x = place(values[layer.source])
            addend = None if layer.addend is None else place(values[layer.addend])
            run = functools.partial(bind(layer, own, dtype, memory_format), x, addend)
            with _products(precision):
                result = run().double().cpu()
                seconds = float(np.median(_seconds(run, device, n_samples)))
                kernels = _kernels(run, device)
            found[precision, name] = seconds, relative_error(result, exact), kernels
    least = min(seconds for (precision, _), (seconds, _, _) in found.items() if precision == "fp32")
    return [
        DeviceTiming(
            layer=layer.name,
            kind=layer.kind,
            batch=batch,
            device=device_name(device),
            precision=precision,
            memory_format=name,
            seconds=seconds,
            speedup=least / seconds,
            relative_error=error,
            kernels=kernels,
            tensor_cores=uses_tensor_cores(kernels) if kernels else None,
        )
        for (precision, name), (seconds, error, kernels) in found.items()
    ]


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def uses_tensor_cores(kernels: Sequence[str]) -> bool:
    """Whether a kernel's name says that it multiplies matrix fragments."""
    return any(TENSOR_CORE.search(kernel) for kernel in kernels)


def _placed(
    x: Tensor, *, dtype: torch.dtype, device: torch.device, memory_format: torch.memory_format
) -> Tensor:
    x = x.to(device=device, dtype=dtype)
    return x.contiguous(memory_format=memory_format) if x.ndim == 4 else x.contiguous()


@contextlib.contextmanager
def _products(precision: str) -> Iterator[None]:
    """Allow products of 10 bits in float32 for "tf32" only; the former setting is restored at the end."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32 = convolution.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before


def _seconds(run: Callable[[], Tensor], device: torch.device, n_samples: int) -> list[float]:
    """Sample a run after a warm-up, in which cuDNN chooses its algorithm."""
    for _ in range(3):
        run()
    if device.type != "cuda":
        seconds = []
        for _ in range(n_samples):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return seconds
    event: Any = functools.partial(torch.cuda.Event, enable_timing=True)
    pairs = [(event(), event()) for _ in range(n_samples)]
    torch.cuda.synchronize(device)
    for start_event, end_event in pairs:
        start_event.record()
        run()
        end_event.record()
    torch.cuda.synchronize(device)
    return [start_event.elapsed_time(end_event) * 1e-3 for start_event, end_event in pairs]


def _kernels(run: Callable[[], Tensor], device: torch.device) -> tuple[str, ...]:
    """The names of the kernels of one run, longest first; nothing on the CPU."""
    if device.type != "cuda":
        return ()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize(device)
    events = [event for event in profiler.key_averages() if event.device_time_total > 0]
    return tuple(event.key for event in sorted(events, key=lambda event: -event.device_time_total))
