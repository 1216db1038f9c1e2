"""How long each layer takes in half precision, in float32 and in torch, and why."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor

from pipeline.precision.attained import measure_attained
from pipeline.precision.layer_timing import LayerTiming, layer_timing
from pipeline.precision.plan import INPUT
from pipeline.precision.roofline import Mode, Roofs, measure_roofs
from pipeline.precision.routines import Execution
from pipeline.precision.sampling import Samples, Sampling, one_core
from pipeline.precision.torch_network import fastest_layer, fastest_network


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
                row = layer_timing(
                    half,
                    single,
                    place,
                    batch=batch,
                    mode=mode,
                    roofs=roofs,
                    samples=taken.samples,
                    routine_torch=taken.routine_torch,
                )
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
        peer, routine_torch = fastest_layer(layer, parameters, values[layer.source], addend)
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
    peer, routine_torch = fastest_network(half.layers, parameters, x)
    taken = sampling.in_network(
        {
            "fp32": functools.partial(single.seconds_per_step, x),
            "fp16": functools.partial(half.seconds_per_step, x),
            "torch": peer.seconds_per_step,
        }
    )
    for place in range(len(half.layers)):
        samples = {name: replace(s, seconds=s.seconds[:, place]) for name, s in taken.items()}
        yield _Taken(samples, routine_torch)


def _chill(roofs: Roofs) -> Callable[[], None]:
    """Read more than the caches hold."""
    numbers = torch.ones(2 * max(roofs.cache_bytes.values()) // 4)

    def chill() -> None:
        numbers.sum()

    return chill


def _native_side(native: Any, buffers: tuple[Tensor, Tensor, Tensor | None]) -> Callable[[int], float]:
    given, result, addend = buffers
    return lambda repeats: native.seconds(given, result, repeats, addend)
