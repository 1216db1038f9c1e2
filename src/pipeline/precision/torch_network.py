"""The torch side of timings: planned layers in torch's eager mode, as fast as its users can run them."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pipeline.precision.plan import INPUT, Layer
from pipeline.precision.reference import FORMATS, bind


class TorchNetwork:
    """All layers of a plan in one memory format.

    Weights and functions are looked up once. A result is released after its last reader, as in a module's own
    `forward`, so that its memory is reused.

    Args:
        layers: The plan.
        parameters: `NAME.weight` complete (not scaled) and `NAME.bias`.
        x: The inputs that it will run on.
        memory_format: Order of images and of the weights of convolutions.
        dtype: Type of all numbers.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        parameters: Mapping[str, Tensor],
        x: Tensor,
        memory_format: torch.memory_format,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        places = {INPUT: 0} | {layer.name: place for place, layer in enumerate(layers, 1)}
        last = {places[name]: place for place, layer in enumerate(layers, 1) for name in layer.sources}
        self._x = laid_out(x.to(dtype), memory_format)
        self._steps = [
            (
                bind(layer, parameters, dtype, memory_format),
                places[layer.source],
                None if layer.addend is None else places[layer.addend],
                [value for value, reader in last.items() if reader == place],
            )
            for place, layer in enumerate(layers, 1)
        ]

    def __call__(self) -> Tensor:
        """Compute the output."""
        values: list[Tensor | None] = [self._x]
        for run, source, addend, done in self._steps:
            values.append(run(values[source], None if addend is None else values[addend]))  # type: ignore[arg-type]
            for place in done:
                values[place] = None
        result = values[-1]
        assert result is not None
        return result

    def seconds_per_step(self) -> list[float]:
        """The wall time of every layer in one run."""
        values: list[Tensor | None] = [self._x]
        seconds = []
        for run, source, addend, done in self._steps:
            given, added = values[source], None if addend is None else values[addend]
            start = time.perf_counter()
            result = run(given, added)  # type: ignore[arg-type]
            seconds.append(time.perf_counter() - start)
            values.append(result)
            for place in done:
                values[place] = None
        return seconds


def fastest_network(
    layers: Sequence[Layer], parameters: Mapping[str, Tensor], x: Tensor
) -> tuple[TorchNetwork, str]:
    """Return all layers at float32 in the memory format in which they are faster together, and its name."""
    networks = {name: TorchNetwork(layers, parameters, x, form) for name, form in formats_of(x).items()}
    best = _fastest(networks)
    return networks[best], _named(best)


def fastest_layer(
    layer: Layer, parameters: Mapping[str, Tensor], x: Tensor, addend: Tensor | None
) -> tuple[Callable[[int], float], str]:
    """Return one layer at float32 in its faster memory format, as a function that times runs of it, and its name."""
    runs = {}
    for name, memory_format in formats_of(x).items():
        run = bind(layer, parameters, x.dtype, memory_format)
        added = None if addend is None else laid_out(addend, memory_format)
        runs[name] = functools.partial(run, laid_out(x, memory_format), added)
    best = _fastest(runs)
    run = runs[best]

    def seconds(repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        return time.perf_counter() - start

    return seconds, _named(best)


def formats_of(x: Tensor) -> Mapping[str, torch.memory_format]:
    """The memory formats to try, by name; there is only one for tensors that are not images."""
    return FORMATS if x.ndim == 4 else {"": torch.contiguous_format}


def laid_out(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Return images in a memory format, and other tensors contiguous."""
    return x.contiguous(memory_format=memory_format) if x.ndim == 4 else x.contiguous()


def _fastest(runs: Mapping[str, Callable[[], object]]) -> str:
    """Return the fastest run, by the best of four times each."""

    def least(name: str) -> float:
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            runs[name]()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    return min(runs, key=least)


def _named(memory_format: str) -> str:
    return f"torch eager fp32{f', {memory_format}' if memory_format else ''}"
