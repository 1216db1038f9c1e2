"""How long each layer takes in half precision, in float32 and in torch, and why."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor

from pipeline.precision.attained import measure_attained
from pipeline.precision.execution import Execution
from pipeline.precision.layer_timing import LayerTiming, layer_timing, predicted_seconds
from pipeline.precision.plan import INPUT, Layer
from pipeline.precision.roofline import Mode, Roofs, measure_roofs
from pipeline.precision.sampling import Sampling, TimeSamples, one_core
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

    Each layer gets the inputs that it has inside the network. Warm, it runs again and again on the same numbers. Cold,
    twice the last cache is read before layers that share no numbers run once each, so that weights and activations come
    from memory; but torch may reuse the memory of an earlier result of the same run, which can only make it faster. In
    the network, whole networks run in turn, and every layer's part of them is timed.

    Args:
        half: The network in half precision.
        single: Its float32 twin.
        parameters: Complete float32 parameters, for torch.
        inputs: Shape (n, channels, rows, columns), n >= 1; repeated where a batch is larger.
        batch_sizes: Samples per run.
        mode: "warm", "cold" or "network".
        roofs: The limits; measured here if None.
        sampling: Settings of the sampling; its defaults if None.
        on_timing: Called with each row as it is made.

    Raises:
        ValueError: If the inputs do not fit the network, a batch size is below 1, or the mode is unknown.
    """
    half.check(inputs)
    if len(inputs) == 0:
        raise ValueError("timing needs at least one input")
    if min(batch_sizes, default=0) < 1:
        raise ValueError(f"batch sizes must be numbers of at least 1, found {tuple(batch_sizes)}")
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, found {mode!r}")
    sampling = sampling or Sampling()
    rows: list[LayerTiming] = []
    with one_core(), torch.inference_mode():
        roofs = roofs or measure_attained(measure_roofs(half.instruction_set))
        for batch in batch_sizes:
            x = inputs[torch.arange(batch) % len(inputs)]
            periods: dict[str, float] = {}
            if mode == "network":
                periods = {
                    "fp32": predicted_seconds(single, batch, roofs),
                    "fp16": predicted_seconds(half, batch, roofs),
                }
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
                    periods=periods,
                )
                rows.append(row)
                if on_timing is not None:
                    on_timing(row)
    return rows


@dataclass(frozen=True)
class _Taken:
    """Samples of one layer by side ("fp32", "fp16", "torch"), and torch's routine."""

    samples: Mapping[str, TimeSamples]
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
    """Sample every layer by itself: warm, one after the other; cold, together with layers that share no numbers."""
    peers = _sides(half, single, parameters, x)
    if mode != "cold":
        for sides, routine_torch in peers:
            yield _Taken(sampling(sides), routine_torch)
        return
    held = list(peers)
    groups = [
        {f"{place} {name}": side for place in group for name, side in held[place][0].items()}
        for group in unconnected(half.layers)
    ]
    taken = sampling.cold(groups, chill=_chill(roofs))
    for place, (sides, routine_torch) in enumerate(held):
        yield _Taken({name: taken[f"{place} {name}"] for name in sides}, routine_torch)


def unconnected(layers: Sequence[Layer]) -> list[list[int]]:
    """Divide a network's layers, given by their places, into few groups whose layers neither read nor write the same
    results.

    Each layer joins the first group that it may, in the order of the plan: a chain makes two groups.
    """
    groups: list[tuple[list[int], set[str]]] = []
    for place, layer in enumerate(layers):
        touched = {layer.name, layer.source} | ({layer.addend} if layer.addend is not None else set())
        for places, taken in groups:
            if not touched & taken:
                places.append(place)
                taken |= touched
                break
        else:
            groups.append(([place], touched))
    return [places for places, _ in groups]


def _sides(
    half: Execution, single: Execution, parameters: Mapping[str, Tensor], x: Tensor
) -> Iterator[tuple[dict[str, Callable[[int], float]], str]]:
    """Yield what runs each layer at float32, in half precision and in torch, and torch's routine."""
    values = {INPUT: x} | dict(
        zip((layer.name for layer in single.layers), single.activations(x), strict=True)
    )
    # Copies: a side that reads another one's input would find it in the caches.
    steps = zip(
        half.layers, half.native, half.steps(x.clone()), single.native, single.steps(x.clone()), strict=True
    )
    for layer, native, buffers, native_single, buffers_single in steps:
        addend = None if layer.addend is None else values[layer.addend]
        peer, routine_torch = fastest_layer(layer, parameters, values[layer.source], addend)
        yield (
            {
                "fp32": _native_side(native_single, buffers_single),
                "fp16": _native_side(native, buffers),
                "torch": peer,
            },
            routine_torch,
        )


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
