"""A torch optimizer around another one, of which it shows parameter groups, state and defaults."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def _of_inner(name: str) -> Any:
    """Return a property that reads and writes an attribute of the inner optimizer, if there is one already."""

    def read(self: Any) -> Any:
        return getattr(self.inner, name)

    def write(self: Any, value: Any) -> None:
        if "inner" in self.__dict__:
            setattr(self.inner, name, value)

    return property(read, write)


def require_own(model: nn.Module, parameters: Iterable[torch.Tensor]) -> None:
    """Raise ValueError unless some of the parameters that are stepped are those of a network.

    Raises:
        ValueError: If none is; they may belong to a copy.
    """
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for p in parameters):
        raise ValueError(
            "the optimizer steps no parameter of this network; build it from the parameters of the network itself, not "
            "of a copy"
        )


class OuterOptimizer(torch.optim.Optimizer):
    """An optimizer whose parameter groups, state and defaults are always those of the inner optimizer.

    They are looked up there at each use, because torch's optimizers replace them when they load a state.

    Args:
        inner: The inner optimizer.

    Attributes:
        inner: The inner optimizer.

    Raises:
        ValueError: If the inner optimizer needs several passes per step.
    """

    param_groups = _of_inner("param_groups")
    state = _of_inner("state")
    defaults = _of_inner("defaults")

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        if not isinstance(inner, torch.optim.Optimizer):
            raise TypeError(f"{type(self).__name__} needs a torch optimizer, not {type(inner).__name__}")
        if isinstance(inner, torch.optim.LBFGS):
            raise ValueError(
                "LBFGS evaluates the loss several times a step, each at other weights; use SGD or AdamW"
            )
        super().__init__([{"params": []}], {})  # what torch's constructor sets is ignored
        self.inner = inner

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimizer."""
        if "inner" in self.__dict__:
            self.inner.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        self.inner.zero_grad(set_to_none)

    def parameters(self) -> list[torch.Tensor]:
        """Return the parameters of all groups."""
        return [p for group in self.inner.param_groups for p in group["params"]]

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            f"a {type(self).__name__} belongs to its network and cannot be copied; save its state_dict"
        )
