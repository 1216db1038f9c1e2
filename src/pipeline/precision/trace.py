"""From a torch module to layers with float64 parameters, batch normalization folded in, ReLU and sums fused.

The module is traced with torch.fx in evaluation mode. A normalization y = g (z - m) / sqrt(v + eps) + b, with running
mean m and variance v, behind z = W x + c becomes W' = s W and c' = s (c - m) + b with s = g / sqrt(v + eps), all in
float64 [1, section 3.1]. One that follows no affine map is a depthwise convolution of its own, and a ReLU that can be
joined to nothing is a maximum over windows of one pixel.

References:
    [1] Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
        CVPR 2018.
"""

import copy
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.precision.plan import INPUT, Geometry, Kind, Layer
from pipeline.precision.reference import reference

SUPPORTED = (
    "Conv2d (zero padding), Linear, BatchNorm, ReLU, the sum of two layers, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, "
    "Flatten, Dropout and Identity"
)
# Folding only re-orders sums in float64: at most 1e-16 times the number of their terms, about 1e-12 for 10^4 of them.
# A network would have to amplify that a million times to come near.
LARGEST_DIFFERENCE = 1e-6
ONE_PIXEL = Geometry((1, 1), (1, 1), (0, 0))


@dataclass(frozen=True)
class Affine:
    """Float64 weights (outputs, ...) and bias (outputs,) of a layer, normalization folded in."""

    weight: Tensor
    bias: Tensor


def trace(module: nn.Module, sample: Tensor) -> tuple[tuple[Layer, ...], dict[str, Affine]]:
    """Turn a module into layers, with activations planned as float32, and their parameters by layer name.

    Args:
        module: Supported modules with one input and one output; it is copied, not changed.
        sample: One or more inputs, shape (n, channels, rows, columns); only its shape matters.

    Raises:
        ConfigError: If a module is not supported; the sentence names it.
    """
    module = copy.deepcopy(module).cpu().float().eval()
    try:
        graph = fx.symbolic_trace(module)
    except Exception as failure:  # torch.fx raises many kinds, of its own and of the module's
        raise ConfigError(
            f"the network cannot be traced ({failure}); its forward must be free of control flow over tensors"
        ) from failure
    graph.graph.eliminate_dead_code()
    try:
        with torch.no_grad():
            _Shapes(graph).run(sample[:1].detach().cpu().float().clone())  # which a ReLU may do in place
    except (RuntimeError, ValueError) as failure:
        raise ConfigError(
            f"the network does not take inputs of shape {tuple(sample.shape[1:])}: {str(failure).splitlines()[0]}"
        ) from failure
    tracer = _Tracer(graph)
    for node in graph.graph.nodes:
        tracer.take(node)
    if not tracer.layers:
        raise ConfigError(f"the network has no layer to convert; supported are {SUPPORTED}")
    return tuple(tracer.layers), tracer.parameters


def check_trace(
    module: nn.Module, layers: Sequence[Layer], parameters: Mapping[str, Affine], samples: Tensor
) -> None:
    """Compare the traced layers with the module itself, both in float64.

    Raises:
        ConfigError: If the module does not run on the samples, or the layers give something else.
    """
    x = samples.detach().cpu().double()
    tensors = {f"{name}.weight": affine.weight for name, affine in parameters.items()}
    tensors |= {f"{name}.bias": affine.bias for name, affine in parameters.items()}
    found = reference(layers, tensors, x)[-1].flatten(1)
    module = copy.deepcopy(module).cpu().double().eval()
    try:
        with torch.no_grad():
            wanted = module(x.clone()).flatten(1)
    except (RuntimeError, ValueError) as failure:
        raise ConfigError(
            f"the network does not run on {len(x)} inputs at once: {str(failure).splitlines()[0]}"
        ) from failure
    difference = (found - wanted).norm() if found.shape == wanted.shape else wanted.new_tensor(math.inf)
    if not difference <= LARGEST_DIFFERENCE * wanted.norm():
        raise ConfigError(
            f"the converted layers' result differs from the network's by {float(difference / wanted.norm()):.1g} of "
            "its norm in float64; the network may change a tensor in place that it reads again, as with inplace=True, "
            "or do more than its layers: leave that out"
        )


class _Shapes(fx.Interpreter):
    """Run a graph and note at each node the shape of its value per sample."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        n.meta["shape"] = tuple(value.shape[1:]) if isinstance(value, Tensor) else None
        return value


@dataclass(frozen=True)
class _Value:
    """What a node of the graph stands for: the result of a layer, or the input, flattened or not."""

    source: str
    shape: tuple[int, ...]
    flat: bool = False


class _Tracer:
    """The layers so far, and the value of every node."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.layers: list[Layer] = []
        self.parameters: dict[str, Affine] = {}
        self.values: dict[fx.Node, _Value] = {}

    def take(self, node: fx.Node) -> None:
        """Append a node of the graph; nodes come in the order of execution."""
        if node.op == "placeholder":
            if self.values:
                raise ConfigError(f"the network has a second input {node.name!r}; wanted one")
            self.values[node] = _Value(INPUT, _shape(node))
        elif node.op == "output":
            self._output(node)
        elif node.meta["shape"] is not None:  # a size that was asked for is none
            self.values[node] = self._handler(node)()

    def _handler(self, node: fx.Node) -> Callable[[], _Value]:
        name = _name(node)
        if node.target in (operator.add, operator.iadd, torch.add, "add", "add_"):
            return lambda: self._add(name, node)
        found: Any = self.graph.get_submodule(name) if node.op == "call_module" else _module_of(node)
        for kinds, method in _MODULES.items():
            if isinstance(found, kinds):
                return lambda: method(self, name, found, node, self._value(node))
        what = (
            type(found).__name__
            if node.op == "call_module"
            else getattr(node.target, "__name__", node.target)
        )
        raise ConfigError(
            f"layer {name!r} is a {what}, which cannot be converted; replace it, or leave it out of the module that is "
            f"converted; supported are {SUPPORTED}"
        )

    def _value(self, node: fx.Node) -> _Value:
        """The value of a node's only input."""
        inputs = [other for other in node.all_input_nodes if other.meta["shape"] is not None]
        if len(inputs) != 1 or inputs[0] not in self.values:
            names = ", ".join(other.name for other in inputs)
            raise ConfigError(
                f"layer {_name(node)!r} takes ({names}) where the result of one layer was wanted"
            )
        return self.values[inputs[0]]

    def _output(self, node: fx.Node) -> None:
        value = self.values.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
        if value is None:
            raise ConfigError(
                "the network gives something other than one tensor; wanted the result of its last layer"
            )
        if self.layers and value.source != self.layers[-1].name:
            raise ConfigError(
                f"the network's output is that of {value.source or 'its input'!r}, not of its last layer"
            )

    def _append(self, layer: Layer, parameters: Affine | None = None) -> _Value:
        if any(layer.name == other.name for other in self.layers):
            if parameters is not None:
                raise ConfigError(
                    f"layer {layer.name!r} is used twice; a converted network needs one module per use"
                )
            n_uses = sum(other.name.partition("#")[0] == layer.name for other in self.layers)
            layer = replace(layer, name=f"{layer.name}#{n_uses + 1}")
        if parameters is not None:
            self.parameters[layer.name] = parameters
        self.layers.append(layer)
        return _Value(layer.name, layer.output_shape)

    def _fusible(self, value: _Value) -> int | None:
        """The place of the layer that gives a value, if nothing but the node which is being taken reads it."""
        places = [place for place, layer in enumerate(self.layers) if layer.name == value.source]
        shared = any(
            len(node.users) > 1 for node, other in self.values.items() if other.source == value.source
        )
        return None if shared or not places else places[0]

    def _convolution(self, name: str, module: nn.Conv2d, node: fx.Node, value: _Value) -> _Value:
        if module.padding_mode != "zeros":
            raise ConfigError(
                f"convolution {name!r} has padding_mode={module.padding_mode!r}; wanted 'zeros', so pad the input with "
                "zeros or leave the layer out"
            )
        kernel, dilation = _pair(module.kernel_size), _pair(module.dilation)
        padding: Any = module.padding
        if isinstance(padding, str):
            reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
            if padding == "same" and any(r % 2 for r in reach):
                raise ConfigError(
                    f"convolution {name!r} has padding='same' and an even kernel; wanted an odd one"
                )
            padding = tuple(r // 2 for r in reach) if padding == "same" else (0, 0)
        geometry = Geometry(kernel, _pair(module.stride), _pair(padding), dilation, module.groups)
        layer = Layer(name, "conv2d", value.source, self._image(name, value), _shape(node), geometry)
        return self._append(layer, _affine(module))

    def _linear(self, name: str, module: nn.Linear, node: fx.Node, value: _Value) -> _Value:
        if len(value.shape) != 1 and not value.flat:
            raise ConfigError(
                f"linear layer {name!r} takes an image of shape {value.shape}; put a Flatten before it"
            )
        return self._append(Layer(name, "linear", value.source, value.shape, _shape(node)), _affine(module))

    def _normalization(
        self, name: str, module: nn.BatchNorm2d | nn.BatchNorm1d, node: fx.Node, value: _Value
    ) -> _Value:
        if module.running_mean is None or module.running_var is None:
            raise ConfigError(
                f"normalization {name!r} has no running statistics; train it with track_running_stats"
            )
        mean, variance = module.running_mean.double(), module.running_var.double()
        factor = (variance + module.eps).rsqrt()
        shift = torch.zeros_like(mean)
        if module.affine:
            factor, shift = factor * module.weight.detach().double(), module.bias.detach().double()
        place = self._fusible(value)
        before = self.layers[place] if place is not None else None
        if before and before.has_weights and not (before.relu or before.addend is not None or value.flat):
            old = self.parameters[before.name]
            column = factor.view(-1, *[1] * (old.weight.ndim - 1))
            self.parameters[before.name] = Affine(old.weight * column, (old.bias - mean) * factor + shift)
            return value
        if len(value.shape) != 3 or value.flat:
            raise ConfigError(
                f"normalization {name!r} does not stand right behind a Conv2d or Linear, so it cannot be folded; "
                "move it there"
            )
        geometry = Geometry((1, 1), (1, 1), (0, 0), groups=len(mean))
        layer = Layer(name, "conv2d", value.source, value.shape, value.shape, geometry)
        return self._append(layer, Affine(factor.view(-1, 1, 1, 1), shift - mean * factor))

    def _relu(self, name: str, module: nn.ReLU, node: fx.Node, value: _Value) -> _Value:
        place = self._fusible(value)
        if place is not None:
            self.layers[place] = replace(self.layers[place], relu=True)
            return value
        if len(value.shape) != 3:
            raise ConfigError(
                f"ReLU {name!r} has no layer before it that it could be joined to, since none is there or others read "
                "its result too; put a Linear before it"
            )
        layer = Layer(name, "max_pool2d", value.source, value.shape, value.shape, ONE_PIXEL, relu=True)
        return replace(self._append(layer), flat=value.flat)

    def _pool(self, name: str, module: nn.MaxPool2d | nn.AvgPool2d, node: fx.Node, value: _Value) -> _Value:
        maximum = isinstance(module, nn.MaxPool2d)
        kernel = _pair(module.kernel_size)
        stride = _pair(module.stride if module.stride is not None else module.kernel_size)
        padding = _pair(module.padding)
        if maximum and (_pair(module.dilation) != (1, 1) or module.return_indices):
            raise ConfigError(
                f"pooling {name!r} has dilation or returns indices; wanted dilation=1 and no indices"
            )
        if not maximum and (
            module.divisor_override is not None or (module.count_include_pad and padding != (0, 0))
        ):
            raise ConfigError(
                f"pooling {name!r} counts its padding; wanted count_include_pad=False and no divisor"
            )
        kind: Kind = "max_pool2d" if maximum else "avg_pool2d"
        geometry = Geometry(kernel, stride, padding)
        return self._append(Layer(name, kind, value.source, self._image(name, value), _shape(node), geometry))

    def _adaptive(self, name: str, module: nn.AdaptiveAvgPool2d, node: fx.Node, value: _Value) -> _Value:
        image, shape = self._image(name, value), _shape(node)
        layer = Layer(name, "adaptive_avg_pool2d", value.source, image, (*shape, 1, 1)[:3])
        return replace(self._append(layer), flat=len(shape) == 1)

    def _flatten(self, name: str, module: nn.Flatten, node: fx.Node, value: _Value) -> _Value:
        if module.start_dim != 1 or module.end_dim not in (-1, len(value.shape)):
            raise ConfigError(
                f"flattening {name!r} goes from dimension {module.start_dim} to {module.end_dim}; wanted 1 to -1"
            )
        return replace(value, flat=len(value.shape) > 1)

    def _nothing(self, name: str, module: nn.Module, node: fx.Node, value: _Value) -> _Value:
        """Pass what does nothing in evaluation mode."""
        return value

    def _add(self, name: str, node: fx.Node) -> _Value:
        """Fuse a sum into the affine map that comes last before it, else make it a layer."""
        operands = [self.values.get(other) if isinstance(other, fx.Node) else None for other in node.args]
        if len(operands) != 2 or None in operands or node.kwargs:
            raise ConfigError(
                f"sum {name!r} adds something other than two layers; wanted two results of one shape"
            )
        first, second = (value for value in operands if value is not None)
        if (first.shape, first.flat) != (second.shape, second.flat):
            raise ConfigError(f"sum {name!r} adds shapes {first.shape} and {second.shape}; wanted one shape")
        places = []
        for value, other in ((first, second), (second, first)):
            place = self._fusible(value)
            if place is not None and value.source != other.source:
                layer = self.layers[place]
                if layer.has_weights and not (layer.relu or layer.addend is not None):
                    places.append((place, other.source))
        if not places:
            layer = Layer(name, "add", first.source, first.shape, first.shape, addend=second.source)
            return replace(self._append(layer), flat=first.flat)
        place, addend = max(places)
        # No other layer reads it, so it may as well run last, when the addend is known.
        layer = self.layers.pop(place)
        self.layers.append(replace(layer, addend=addend))
        return replace(first, source=layer.name)

    def _image(self, name: str, value: _Value) -> tuple[int, ...]:
        if len(value.shape) != 3 or value.flat:
            raise ConfigError(f"layer {name!r} wants an image (channels, rows, columns), found a flat input")
        return value.shape


_MODULES: dict[type[nn.Module] | tuple[type[nn.Module], ...], Callable[..., _Value]] = {
    nn.Conv2d: _Tracer._convolution,
    nn.Linear: _Tracer._linear,
    (nn.BatchNorm2d, nn.BatchNorm1d): _Tracer._normalization,
    nn.ReLU: _Tracer._relu,
    (nn.MaxPool2d, nn.AvgPool2d): _Tracer._pool,
    nn.AdaptiveAvgPool2d: _Tracer._adaptive,
    nn.Flatten: _Tracer._flatten,
    (nn.Dropout, nn.Dropout2d, nn.Identity): _Tracer._nothing,
}


def _arguments(node: fx.Node, *names: str) -> dict[str, Any]:
    """The arguments of a call behind the tensor, by name."""
    return dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)


def _module_of(node: fx.Node) -> nn.Module | None:
    """The module that does what a function or method does; None if there is none."""
    target: Any = node.target
    pooling = ("kernel_size", "stride", "padding")
    if target in (torch.relu, torch.relu_, functional.relu, functional.relu_, "relu", "relu_"):
        return nn.ReLU()
    if target in (torch.flatten, "flatten"):
        return nn.Flatten(**{"start_dim": 0} | _arguments(node, "start_dim", "end_dim"))
    if target in ("view", "reshape", torch.reshape) and node.args[-1] == -1 and len(node.args) == 3:
        return nn.Flatten()
    if target in (functional.max_pool2d, torch.max_pool2d):
        return nn.MaxPool2d(**_arguments(node, *pooling, "dilation", "ceil_mode", "return_indices"))
    if target is functional.avg_pool2d:
        return nn.AvgPool2d(
            **_arguments(node, *pooling, "ceil_mode", "count_include_pad", "divisor_override")
        )
    if target is functional.adaptive_avg_pool2d:
        return nn.AdaptiveAvgPool2d(**_arguments(node, "output_size"))
    if target in (torch.mean, "mean") and node.meta["shape"] is not None:
        dims = _arguments(node, "dim").get("dim")
        over_pixels = isinstance(dims, list | tuple) and sorted(d % 4 for d in dims) == [2, 3]
        return nn.AdaptiveAvgPool2d(1) if over_pixels else None
    if target in (functional.dropout, functional.dropout2d, "contiguous"):
        return nn.Identity()
    return None


def _affine(module: nn.Conv2d | nn.Linear) -> Affine:
    weight = module.weight.detach().double()
    bias = module.bias.detach().double() if module.bias is not None else weight.new_zeros(weight.shape[0])
    return Affine(weight, bias)


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _shape(node: fx.Node) -> tuple[int, ...]:
    return node.meta["shape"]  # type: ignore[no-any-return]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
