"""A network that was read from an ONNX file: its nodes in their order, each a module of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from pipeline.errors import ConfigError
from pipeline.precision.onnx_operators import ATTRIBUTES, OPERATORS, Refused


class OnnxNode(nn.Module):
    """One node: its operator, its attributes, and its name in the file."""

    def __init__(self, label: str, operator: str, attributes: Mapping[str, Any], opset: int) -> None:
        super().__init__()
        self.label, self.operator = label, operator
        self.attributes = dict(attributes) | ({"opset": opset} if "opset" in ATTRIBUTES[operator] else {})

    def forward(self, *inputs: Tensor | None) -> Any:
        """Compute the node's outputs: a tensor, or a tuple of them."""
        try:
            return OPERATORS[self.operator](*inputs, **self.attributes)
        except Refused as refused:
            raise ConfigError(f"layer {self.label!r} ({self.operator}) {refused}") from None


class OnnxNetwork(nn.Module):
    """The nodes in their order, and the constants that they read."""

    def __init__(
        self,
        given: str,
        result: str,
        constants: Mapping[str, Tensor],
        steps: Sequence[tuple[OnnxNode, Sequence[str], Sequence[str]]],
    ) -> None:
        super().__init__()
        self.given, self.result = given, result
        self.constants = {name: f"constant_{number}" for number, name in enumerate(constants)}
        for name, key in self.constants.items():
            self.register_buffer(key, constants[name])
        self.alone = False  # whether a sample must come by itself, since constants hold a batch of one
        self.require_verified: Callable[[tuple[int, ...]], None] | None = (
            None  # called with the shape of inputs
        )
        self.wiring = [(list(inputs), list(outputs)) for _, inputs, outputs in steps]
        self.nodes = nn.ModuleList(node for node, _, _ in steps)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the network."""
        if self.require_verified is not None:
            with _disable_current_modes():
                self.require_verified(tuple(x.shape[1:]))
        if self.alone and len(x) > 1:
            return torch.cat([self(part) for part in torch.split(x, 1)])
        values: dict[str, Any] = {name: getattr(self, key) for name, key in self.constants.items()}
        values[self.given] = x
        for node, (inputs, outputs) in zip(self.nodes, self.wiring, strict=True):
            found = node(*(values[key] if key else None for key in inputs))
            found = found if isinstance(found, tuple | list) else (found,)
            values |= dict(zip(outputs, found, strict=False))
        return values[self.result]  # type: ignore[no-any-return]
