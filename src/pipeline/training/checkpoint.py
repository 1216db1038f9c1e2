"""Everything that the rest of a run depends on, as named tensors and plain numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.training.average import Average
from pipeline.training.kfac import KFAC


@dataclass(frozen=True)
class State:
    """A run between two steps.

    Attributes:
        tensors: Weights and buffers ("model/..."), the tensors of the optimizer ("optimizer/...") and of K-FAC
            ("kfac/..."), and the mean of weights ("average/..."). All are contiguous copies that share no memory.
        scalars: Values that JSON can hold: the "identity" of the run, the fields of `RunState`, and the numbers of the
            optimizer and of K-FAC.
    """

    tensors: dict[str, Tensor]
    scalars: dict[str, Any]

    @property
    def step(self) -> int:
        """How many steps the run has done."""
        return int(self.scalars["step"])


def capture_state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    kfac: KFAC | None,
    average: Average,
    scalars: dict[str, Any],
) -> State:
    """Copy the state of a run; `scalars` are the loop's own numbers."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    scalars = {**scalars, "optimizer": _fold(optimizer.state_dict(), "optimizer", tensors)}
    tensors |= {f"average/{name}": tensor for name, tensor in average.state_dict().items()}
    scalars["n_averaged"] = average.n_added
    if kfac is not None:
        state = kfac.state_dict()
        tensors |= {f"kfac/{name}": tensor for name, tensor in state["tensors"].items()}
        scalars["kfac"] = dict(state["scalars"])
    return State({name: t.detach().clone().contiguous() for name, t in tensors.items()}, scalars)


def restore_state(
    state: State, model: nn.Module, optimizer: torch.optim.Optimizer, kfac: KFAC | None, average: Average
) -> None:
    """Put a state back into fresh objects of the same run.

    Raises:
        ConfigError: If the state is that of another network.
    """
    device = next(model.parameters()).device
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "kfac": {}, "average": {}}
    for path, tensor in state.tensors.items():
        group, name = path.split("/", 1)
        groups[group][name] = tensor.to(device)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in groups["model"].items()}
    if found != expected:
        differing = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        raise ConfigError(
            f"the checkpoint is of another network: {differing[0]} has shape {found.get(differing[0])} there and "
            f"{expected.get(differing[0])} here; delete the checkpoint or restore the model's options"
        )
    model.load_state_dict(groups["model"])
    optimizer.load_state_dict(_unfold(state.scalars["optimizer"], groups["optimizer"]))
    average.load_state_dict(groups["average"], state.scalars["n_averaged"])
    if kfac is not None:
        kfac.load_state_dict({"tensors": groups["kfac"], "scalars": state.scalars["kfac"]})


def _fold(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Make a tree of dictionaries, lists and tuples fit for JSON; its tensors go to `tensors` by path.

    Strides are kept, because the rounding of products depends on them.
    """
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path.split("/", 1)[1], "stride": list(value.stride())}
    if isinstance(value, dict):
        return {"items": [[key, _fold(entry, f"{path}/{key}", tensors)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        entries = [_fold(entry, f"{path}/{i}", tensors) for i, entry in enumerate(value)]
        return {type(value).__name__: entries}
    return value


def _unfold(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Invert `_fold`; tensors are copies."""
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        saved = tensors[value["tensor"]]
        return torch.empty_strided(
            saved.shape, value["stride"], dtype=saved.dtype, device=saved.device
        ).copy_(saved)
    if "items" in value:
        return {key: _unfold(entry, tensors) for key, entry in value["items"]}
    if "tuple" in value:
        return tuple(_unfold(entry, tensors) for entry in value["tuple"])
    return [_unfold(entry, tensors) for entry in value["list"]]
