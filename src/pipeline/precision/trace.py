"""From a torch module to an ordered list of layers with float64 parameters, batch normalization folded in.

The module is traced with torch.fx in evaluation mode and has to be a chain. Folding, with the running mean m and
variance v of a normalization y = g (z - m) / sqrt(v + eps) + b behind z = W x + c: W' = s W and c' = s (c - m) + b
with s = g / sqrt(v + eps), all in float64 [1, section 3.1].

References:
    [1] Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
        CVPR 2018.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.errors import ConfigError
from pipeline.precision.plan import Geometry, Layer

SUPPORTED = (
    "Conv2d (groups=1, zero padding), BatchNorm behind a Conv2d or Linear, ReLU, MaxPool2d, AvgPool2d, "
    "AdaptiveAvgPool2d, Flatten, Linear, Dropout and Identity, one after the other"
)


@dataclass(frozen=True)
class Affine:
    """Float64 weights (outputs, ...) and bias (outputs,) of a layer, normalization folded in."""

    weight: Tensor
    bias: Tensor


def trace(module: nn.Module, sample: Tensor) -> tuple[tuple[Layer, ...], dict[str, Affine]]:
    """Turn a module into layers, with activations planned as float32, and their parameters by layer name.

    Args:
        module: A chain of supported modules; it is copied, not changed.
        sample: One or more inputs, shape (n, channels, rows, columns); only its shape matters.

    Raises:
        ConfigError: If a module is not supported, or comes where it cannot be folded; the sentence names it.
    """
    module = copy.deepcopy(module).cpu().float().eval()
    try:
        graph = fx.symbolic_trace(module)
    except Exception as failure:  # torch.fx raises many kinds, of its own and of the module's
        raise ConfigError(
            f"the network cannot be traced ({failure}); its forward must be free of control flow over tensors"
        ) from failure
    try:
        with torch.no_grad():
            _Shapes(graph).run(sample[:1].detach().cpu().float())
    except RuntimeError as failure:
        raise ConfigError(
            f"the network does not take inputs of shape {tuple(sample.shape[1:])}: {str(failure).splitlines()[0]}"
        ) from failure
    chain = _Chain()
    for node in graph.graph.nodes:
        chain.take(node, graph)
    if not chain.layers:
        raise ConfigError(f"the network has no layer to convert; supported are {SUPPORTED}")
    return tuple(chain.layers), chain.parameters


class _Shapes(fx.Interpreter):
    """Run a graph and note at each node the shape of its value per sample."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        n.meta["shape"] = tuple(value.shape[1:]) if isinstance(value, Tensor) else None
        return value


class _Chain:
    """The layers so far, and the node whose value they compute."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.parameters: dict[str, Affine] = {}
        self.head: fx.Node | None = None
        self.shape: tuple[int, ...] = ()
        self.flat = False

    def take(self, node: fx.Node, graph: fx.GraphModule) -> None:
        """Append a node of the graph; nodes come in the order of execution."""
        if node.op == "placeholder":
            if self.head is not None:
                raise ConfigError(f"the network has a second input {node.name!r}; wanted one")
            self.head, self.shape = node, _shape(node)
            return
        if node.all_input_nodes != [self.head]:
            inputs = ", ".join(other.name for other in node.all_input_nodes)
            raise ConfigError(
                f"layer {_name(node)!r} takes ({inputs}) where the result of the layer before it was wanted; "
                f"supported are {SUPPORTED}"
            )
        if node.op == "output":
            return
        handler = self._handler(node, graph)
        handler()
        self.head = node

    def _handler(self, node: fx.Node, graph: fx.GraphModule) -> Callable[[], None]:
        name = _name(node)
        if node.op == "call_module":
            found: Any = graph.get_submodule(str(node.target))
            for kind, method in _MODULES.items():
                if isinstance(found, kind):
                    return lambda: method(self, name, found, _shape(node))
        elif node.target in (torch.relu, torch.nn.functional.relu, "relu"):
            return lambda: self._relu(name, None, _shape(node))
        elif node.target in (torch.flatten, "flatten"):
            start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
            end = node.args[2] if len(node.args) > 2 else node.kwargs.get("end_dim", -1)
            return lambda: self._flatten(name, nn.Flatten(start, end), _shape(node))  # type: ignore[arg-type]
        found = graph.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        what = (
            type(found).__name__ if isinstance(found, nn.Module) else getattr(found, "__name__", str(found))
        )
        raise ConfigError(f"layer {name!r} is a {what}, which cannot be converted; supported are {SUPPORTED}")

    def _add(self, layer: Layer, parameters: Affine | None = None) -> None:
        if any(layer.name == other.name for other in self.layers):
            raise ConfigError(
                f"layer {layer.name!r} is used twice; a converted network needs one module per use"
            )
        if parameters is not None:
            self.parameters[layer.name] = parameters
        self.layers.append(layer)
        self.shape, self.flat = layer.output_shape, False

    def _convolution(self, name: str, module: nn.Conv2d, shape: tuple[int, ...]) -> None:
        if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise ConfigError(
                f"convolution {name!r} has groups={module.groups}, padding={module.padding!r} and "
                f"padding_mode={module.padding_mode!r}; wanted groups=1 and a number of zeros as padding"
            )
        geometry = Geometry(
            _pair(module.kernel_size), _pair(module.stride), _pair(module.padding), _pair(module.dilation)
        )
        self._add(_layer(name, "conv2d", self._image(name), shape, geometry), _affine(module))

    def _linear(self, name: str, module: nn.Linear, shape: tuple[int, ...]) -> None:
        if len(self.shape) != 1 and not self.flat:
            raise ConfigError(
                f"linear layer {name!r} takes an image of shape {self.shape}; put a Flatten before it"
            )
        self._add(_layer(name, "linear", self.shape, shape, None), _affine(module))

    def _normalization(
        self, name: str, module: nn.BatchNorm2d | nn.BatchNorm1d, shape: tuple[int, ...]
    ) -> None:
        before = self.layers[-1] if self.layers else None
        if before is None or not before.has_weights or before.relu or self.flat:
            raise ConfigError(
                f"normalization {name!r} does not stand right behind a Conv2d or Linear, so it cannot be folded"
            )
        if module.running_mean is None or module.running_var is None:
            raise ConfigError(
                f"normalization {name!r} has no running statistics; train it with track_running_stats"
            )
        mean, variance = module.running_mean.double(), module.running_var.double()
        factor = (variance + module.eps).rsqrt()
        shift = torch.zeros_like(mean)
        if module.affine:
            factor, shift = factor * module.weight.detach().double(), module.bias.detach().double()
        old = self.parameters[before.name]
        column = factor.view(-1, *[1] * (old.weight.ndim - 1))
        self.parameters[before.name] = Affine(old.weight * column, (old.bias - mean) * factor + shift)

    def _relu(self, name: str, module: nn.ReLU | None, shape: tuple[int, ...]) -> None:
        if not self.layers:
            raise ConfigError(f"ReLU {name!r} has no layer before it that it could be joined to")
        self.layers[-1] = replace(self.layers[-1], relu=True)

    def _pool(self, name: str, module: nn.MaxPool2d | nn.AvgPool2d, shape: tuple[int, ...]) -> None:
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
        kind = "max_pool2d" if maximum else "avg_pool2d"
        self._add(_layer(name, kind, self._image(name), shape, Geometry(kernel, stride, padding)))

    def _adaptive(self, name: str, module: nn.AdaptiveAvgPool2d, shape: tuple[int, ...]) -> None:
        self._add(_layer(name, "adaptive_avg_pool2d", self._image(name), shape, None))

    def _flatten(self, name: str, module: nn.Flatten, shape: tuple[int, ...]) -> None:
        if module.start_dim != 1 or module.end_dim not in (-1, len(self.shape)):
            raise ConfigError(
                f"flattening {name!r} goes from dimension {module.start_dim} to {module.end_dim}; wanted 1 to -1"
            )
        self.flat = True

    def _nothing(self, name: str, module: nn.Module, shape: tuple[int, ...]) -> None:
        """Skip what does nothing in evaluation mode."""

    def _image(self, name: str) -> tuple[int, ...]:
        if len(self.shape) != 3 or self.flat:
            raise ConfigError(f"layer {name!r} wants an image (channels, rows, columns), found a flat input")
        return self.shape


_MODULES: dict[type[nn.Module] | tuple[type[nn.Module], ...], Callable[..., None]] = {
    nn.Conv2d: _Chain._convolution,
    nn.Linear: _Chain._linear,
    (nn.BatchNorm2d, nn.BatchNorm1d): _Chain._normalization,
    nn.ReLU: _Chain._relu,
    (nn.MaxPool2d, nn.AvgPool2d): _Chain._pool,
    nn.AdaptiveAvgPool2d: _Chain._adaptive,
    nn.Flatten: _Chain._flatten,
    (nn.Dropout, nn.Dropout2d, nn.Identity): _Chain._nothing,
}


def _layer(
    name: str,
    kind: Any,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    geometry: Geometry | None,
) -> Layer:
    return Layer(name, kind, input_shape, output_shape, geometry, False, "float32", "float32")


def _affine(module: nn.Conv2d | nn.Linear) -> Affine:
    weight = module.weight.detach().double()
    bias = module.bias.detach().double() if module.bias is not None else weight.new_zeros(weight.shape[0])
    return Affine(weight, bias)


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _shape(node: fx.Node) -> tuple[int, ...]:
    return node.meta["shape"]  # type: ignore[no-any-return]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
