"""Build the layers of a network from its operators, one by one; see `trace`."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pipeline.errors import ConfigError
from pipeline.precision.plan import INPUT, Layer, WindowGeometry
from pipeline.precision.record import Node, Recording, Value
from pipeline.precision.views import View, is_natural, natural, resting

LARGE = 1e30  # beyond any activation, yet binary32 can add to it


@dataclass(frozen=True)
class Affine:
    """Float64 weights (outputs, ...) and bias (outputs,) of a layer, normalization folded in."""

    weight: Tensor
    bias: Tensor

    def tensors(self, name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": self.weight, f"{name}.bias": self.bias}


@dataclass(frozen=True)
class Index:
    """Where a "gather" layer finds each of its results, int32: in its input, then in its addend; -1 for zero."""

    places: Tensor

    def tensors(self, name: str) -> dict[str, Tensor]:
        return {f"{name}.index": self.places}


Parameters = dict[str, Affine | Index]


def tensors_of(parameters: Mapping[str, Affine | Index]) -> dict[str, Tensor]:
    """All tensors by the names that they are stored under."""
    return {key: value for name, own in parameters.items() for key, value in own.tensors(name).items()}


class Tracer:
    """The layers so far, and every value as a view of their results."""

    def __init__(self, recording: Recording) -> None:
        self.layers: list[Layer] = []
        self.parameters: Parameters = {}
        self.views: dict[Value, View] = {}
        self._given = recording.given.shape[1:]
        # Layers know rows of numbers and images; a tensor of other dimensions is a row of numbers to them.
        lies = self._given if len(self._given) in (1, 3) else (math.prod(self._given),)
        self._shapes: dict[str, tuple[int, ...]] = {INPUT: lies}
        self._gathered: dict[tuple[Any, ...], list[tuple[Tensor, View]]] = {}
        self._n_uses = Counter(
            leaf
            for node in recording.nodes
            for leaf in tree_leaves(dict(node.arguments))
            if isinstance(leaf, Value)
        )
        self._n_uses[recording.result] += 1
        self.wanted = set(self._n_uses)  # results that something reads
        start = natural(self._given)
        self.views[recording.given] = View(INPUT, start.numel(), start)

    def refusal(self, node: Node, why: str) -> ConfigError:
        return ConfigError(f"layer {node.name!r} {why}")

    def shape(self, source: str) -> tuple[int, ...]:
        """The shape of a layer's result, or of the input."""
        return self._shapes[source]

    def append(self, layer: Layer, parameters: Affine | Index | None = None) -> View:
        """Add a layer under a unique name, and return the view of its result."""
        names = {other.name for other in self.layers}
        name, n = layer.name or "layer", 1
        while name in names:
            n += 1
            name = f"{layer.name}#{n}"
        self.layers.append(replace(layer, name=name))
        self._shapes[name] = layer.output_shape
        if parameters is not None:
            self.parameters[name] = parameters
        index = natural(layer.output_shape)
        return View(name, index.numel(), index)

    def replace(self, place: int, **changes: Any) -> None:
        self.layers[place] = replace(self.layers[place], **changes)

    def fusible(self, view: View) -> int | None:
        """Return the place of the layer whose whole result is a view, unless something else reads the result."""
        places = [place for place, layer in enumerate(self.layers) if layer.name == view.source]
        if not places or not view.is_whole:
            return None
        shared = any(
            self._n_uses[value] > 1 for value, other in self.views.items() if other.source == view.source
        )
        read = any(view.source in layer.sources for layer in self.layers)
        return None if shared or read else places[0]

    def settle(self, view: View, name: str) -> View:
        """The view with its factor multiplied out."""
        if view.factor == 1.0:
            return view
        factor = torch.full(view.shape, view.factor, dtype=torch.float64)
        plain = replace(view, factor=1.0)
        return self.scale_and_shift(plain, factor, torch.zeros_like(factor), name)

    def laid_out(self, view: View, index: Tensor, shape: tuple[int, ...], name: str) -> str:
        """Return the name of a result that has this view's numbers in the order of `index`; gather them if needed.

        Args:
            view: The view, with a factor of 1.
            index: The wanted places of the view's numbers, of the view's shape.
            shape: Shape of the layer that gathers.
            name: Name of the operator that needs the result.
        """
        assert view.factor == 1.0
        if is_natural(view, index):
            return view.source
        places = torch.empty(index.numel(), dtype=torch.int64)
        places[index.flatten()] = view.index.flatten()
        return self.gather(view, None, places, shape, name).source

    def gather(
        self, first: View, second: View | None, places: Tensor, shape: tuple[int, ...], name: str
    ) -> View:
        """A layer that chooses from one or two results; the same choice is not made twice."""
        key = (first.source, None if second is None else second.source, shape)
        for known, view in self._gathered.setdefault(key, []):
            if torch.equal(known, places):
                return view
        layer = Layer(
            f"{name}.gather",
            "gather",
            first.source,
            self._shapes[first.source],
            shape,
            addend=None if second is None else second.source,
            addend_size=0 if second is None else second.n_source,
        )
        view = self.append(layer, Index(places.int()))
        self._gathered[key].append((places, view))
        return view

    def image(self, view: View, node: Node) -> tuple[str, tuple[int, int, int]]:
        """The result that holds an image of shape (1, channels, rows, columns), and its shape."""
        if len(view.shape) != 4 or view.shape[0] != 1:
            raise self.refusal(
                node, f"wants an image (channels, rows, columns) of each sample, found shape {view.shape}"
            )
        _, channels, rows, columns = view.shape
        shape = (channels, rows, columns)
        return self.laid_out(view, natural(shape), shape, node.name), shape

    def rows(self, view: View, name: str) -> tuple[str, tuple[int, int, int]]:
        """Return the result that holds a tensor's rows, along its last dimension, as an image of one column."""
        width = view.shape[-1]
        shape = (width, view.index.numel() // width, 1)
        return self.laid_out(view, torch.arange(view.index.numel()).view(view.shape), shape, name), shape

    def scale_and_shift(self, view: View, scale: Tensor, shift: Tensor, name: str) -> View:
        """y = scale x + shift with constants of the view's shape: folded into the layer before, or one of its own.

        Infinite shifts, as in masks of attention, become large finite ones, which have the same effect.
        """
        assert view.factor == 1.0
        shift = torch.where(shift.isinf(), shift.sign() * LARGE, shift)
        if view.is_whole and self._folded(view, scale, shift):
            return view
        return self._by_channel(view, scale, shift, name) or self._by_number(view, scale, shift, name)

    def _folded(self, view: View, scale: Tensor, shift: Tensor) -> bool:
        place = self.fusible(view)
        before = self.layers[place] if place is not None else None
        if before is None or before.relu or before.function:
            return False
        if not before.has_weights or (before.addend is not None and not bool((scale == 1).all())):
            return False
        order = view.order
        assert order is not None
        factors, shifts = (part.flatten()[order].view(-1, before.output_shape[0]) for part in (scale, shift))
        if not (bool((factors == factors[0]).all()) and bool((shifts == shifts[0]).all())):
            return False
        old = self.parameters[before.name]
        assert isinstance(old, Affine)
        column = factors[0].view(-1, *[1] * (old.weight.ndim - 1))
        self.parameters[before.name] = Affine(old.weight * column, old.bias * factors[0] + shifts[0])
        return True

    def _by_channel(self, view: View, scale: Tensor, shift: Tensor, name: str) -> View | None:
        """A depthwise convolution of the result as it lies, if the constants are the same for each pixel."""
        if not view.is_whole:
            return None
        order = view.order
        shape = self._shapes[view.source]
        if len(shape) != 3:
            last = view.shape[-1]
            shape = (last, view.n_source // last, 1)
        factors, shifts = (part.flatten()[order].view(-1, shape[0]) for part in (scale, shift))
        if not (bool((factors == factors[0]).all()) and bool((shifts == shifts[0]).all())):
            return None
        return self._depthwise(view, shape, factors[0], shifts[0], name).moved(view.index)

    def _by_number(self, view: View, scale: Tensor, shift: Tensor, name: str) -> View:
        """Scale and shift each number by constants of its own, also the zeros of padding."""
        if view.is_whole:
            order = view.order
            assert order is not None
            source, index = view, view.index
            factors, shifts = scale.flatten()[order], shift.flatten()[order]
        else:
            shape, index = resting(view.index)
            source = replace(view, source=self.laid_out(view, index, shape, name), n_source=index.numel())
            order = torch.empty(index.numel(), dtype=torch.int64)
            order[index.flatten()] = torch.arange(index.numel())
            factors, shifts = scale.flatten()[order], shift.flatten()[order]
            rows = factors.view(-1, shape[0]), shifts.view(-1, shape[0])
            if len(shape) == 3 and all(bool((part == part[0]).all()) for part in rows):
                return self._depthwise(source, shape, rows[0][0], rows[1][0], name).moved(index)
        return self._depthwise(source, (len(factors), 1, 1), factors, shifts, name).moved(index)

    def _depthwise(
        self, view: View, shape: tuple[int, ...], factors: Tensor, shifts: Tensor, name: str
    ) -> View:
        geometry = WindowGeometry((1, 1), (1, 1), (0, 0), groups=len(factors))
        layer = Layer(name, "conv2d", view.source, shape, shape, geometry)
        return self.append(layer, Affine(factors.double().view(-1, 1, 1, 1), shifts.double()))

    def _with_input_as_given(self, layers: list[Layer]) -> list[Layer]:
        """Give the first layer the shape of the network's input if it reads the numbers in another shape."""
        given, shape = self._given, layers[0].input_shape
        if shape == given:
            return layers
        n = math.prod(given)
        copy = self.append(Layer("input", "gather", INPUT, given, shape), Index(torch.arange(n).int()))
        first = self.layers.pop()
        read = {INPUT: copy.source}
        return [
            first,
            *(
                replace(
                    layer,
                    source=read.get(layer.source, layer.source),
                    addend=None if layer.addend is None else read.get(layer.addend, layer.addend),
                )
                for layer in layers
            ),
        ]

    def finish(self, result: Value) -> tuple[tuple[Layer, ...], Parameters]:
        """Return the layers without unused ones; the last one gives the output."""
        view = self.settle(self.views[result], "output")
        shape = view.shape[1:]
        if view.shape[:1] != (1,):
            raise ConfigError(
                f"the network gives shape {view.shape} for one input; wanted (n, numbers) or images, one for each "
                "input, so look where it reshapes or repeats its inputs across the batch"
            )
        if len(shape) not in (1, 3):
            raise ConfigError(
                f"the network gives shape {('n', *shape)}; wanted (n, numbers) or images, so flatten it"
            )
        source = self.laid_out(view, natural(shape), shape, "output")
        if self._shapes[source] != shape:  # the same numbers, but not the same shape
            source = self.gather(view, None, torch.arange(view.n_source), shape, "output").source
        if source == INPUT:
            raise ConfigError("the network has no layer to convert; it returns its input")
        needed, kept = {source}, []
        for layer in reversed(self.layers):
            if layer.name in needed:
                needed |= set(layer.sources)
                kept.append(layer)
        last = [layer for layer in kept if layer.name == source]
        layers = [layer for layer in reversed(kept) if layer.name != source] + last
        layers = self._with_input_as_given(layers)
        return tuple(layers), {
            layer.name: self.parameters[layer.name] for layer in layers if layer.name in self.parameters
        }
