"""Record what a module does to its input as a list of torch's own operators.

The module runs once, on one sample, while every operator whose arguments depend on the input is recorded
(`TorchDispatchMode`: below modules, functions and Python's control flow there are only some dozens of operators).
Everything else is a constant, however it was computed: pruned and normalized weights, masks, sizes. Each operator is
named after the module that ran it.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import UninitializedParameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pipeline.errors import ConfigError
from pipeline.precision.torch_state import plain_torch

IN_PLACE = (
    "the network changes a tensor in place that it reads again; leave inplace=True or the assignment out"
)

# These operators need a tensor's shape and type, not its numbers.
WITHOUT_VALUES = {
    "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided", "zeros_like", "ones_like", "full_like",
    "empty_like", "rand_like", "randn_like",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor that depends on the input; its shape counts the sample as the first dimension, of size 1."""

    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Node:
    """One operator.

    Attributes:
        operator: Its name without torch's marks for writing in place: "relu" for `aten::relu_` as well.
        function: What computes it.
        arguments: Its arguments in the order of its schema, with a `Value` for each tensor that depends on the input.
        outputs: Its results; None for one that is no tensor.
        name: Path of the module that ran it, or of the one that holds its weights.
    """

    operator: str
    function: Any
    arguments: Mapping[str, Any]
    outputs: tuple[Value | None, ...]
    name: str


@dataclass(frozen=True)
class Recording:
    """The operators in the order of their execution, the input, and the output."""

    nodes: tuple[Node, ...]
    given: Value
    result: Value


def record(module: nn.Module, sample: Tensor) -> Recording:
    """Run a module, already a copy in float64 and evaluation mode, on one sample and note its operators.

    Raises:
        ConfigError: If the module does not take the sample, gives something other than one tensor that depends on it,
            branches on a tensor's value, or reads a tensor that it has overwritten through another one.
    """
    recorder = _Recorder(module)
    x = sample.detach().clone()
    given = recorder.follow(x)
    try:
        # Tensors that the module makes without a type must match the float64 ones here.
        with (
            plain_torch(torch.float64),
            torch.no_grad(),
            without_fused_attention(),
            recorder.named(),
            recorder,
        ):
            result = module(x)
    except ConfigError:
        raise
    except Exception as failure:  # the module's own kinds, and torch's
        raise ConfigError(
            f"the network does not take inputs of shape {tuple(sample.shape[1:])}: {_first_line(failure)}"
        ) from failure
    if id(result) in recorder.stale:
        raise ConfigError(IN_PLACE)
    value = recorder.values.get(id(result)) if isinstance(result, Tensor) else None
    if value is None:
        raise ConfigError(
            f"the network gives {_described(result)}; wanted one tensor that depends on its input, so wrap it in a "
            "module that gives only that"
        )
    return Recording(_live(recorder.nodes, value), given, value)


def double_copy(module: nn.Module) -> nn.Module:
    """A copy in float64, on the CPU and in evaluation mode; computed weights, as pruning has, are copied by value.

    Raises:
        ConfigError: If it is compiled by TorchScript, or lazy and not initialized yet.
    """
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise ConfigError(
            "the network is compiled by TorchScript, whose operators cannot be recorded; convert the module that it "
            "was made of, or a program of torch.export"
        )
    lazy = [name for name, value in module.named_parameters() if isinstance(value, UninitializedParameter)]
    if lazy:
        raise ConfigError(
            f"the network's parameter {lazy[0]!r} has no shape as yet; run the network once on an input"
        )
    computed = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    copied: nn.Module = copy.deepcopy(module, computed).cpu().double().eval()
    for part in copied.modules():
        for key, value in vars(part).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                vars(part)[key] = value.detach().cpu().double()
    return copied


@contextmanager
def without_fused_attention() -> Iterator[None]:
    """Have attention computed by its parts within the context."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def unrounded() -> AbstractContextManager[object]:
    """Keep a float64 copy in float64 where the module itself converts to another floating-point type."""
    return _Unrounded()  # type: ignore[no-untyped-call]


class _Unrounded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator = func._schema.name.removeprefix("aten::")
        return func(*args, **_without_rounding(operator, args, dict(kwargs or {})))


def _without_rounding(operator: str, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a conversion without its type, because the plan decides how numbers are stored."""
    dtype = kwargs.get("dtype")
    if (
        operator != "_to_copy"
        or dtype is None
        or not dtype.is_floating_point
        or args[0].dtype != torch.float64
    ):
        return kwargs
    return kwargs | {"dtype": torch.float64}


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows tensors by their `id`; all of them are kept alive, so that no `id` is reused."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.module = module
        self.nodes: list[Node] = []
        self.values: dict[int, Value] = {}
        self.kept: dict[int, Tensor] = {}
        self.stale: set[int] = set()  # tensors whose memory another one wrote to
        self.written: set[int] = set()  # memory of constants that results were written to
        self.path: list[tuple[str, bool]] = [("", True)]
        self.owners = {
            parameter.untyped_storage()._cdata: name.rpartition(".")
            for name, parameter in module.named_parameters(remove_duplicate=False)
        }

    def follow(self, tensor: Tensor) -> Value:
        value = Value(tuple(tensor.shape))
        self.values[id(tensor)], self.kept[id(tensor)] = value, tensor
        return value

    @contextmanager
    def named(self) -> Iterator[None]:
        """Track which module runs, by hooks that are removed afterwards."""
        hooks = []
        for path, part in self.module.named_modules():
            entry = (str(getattr(part, "label", path)), not any(True for _ in part.children()))
            hooks.append(part.register_forward_pre_hook(lambda *_, entry=entry: self.path.append(entry)))
            hooks.append(part.register_forward_hook(lambda *_: self.path.pop() and None))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in tensors:
            if id(tensor) in self.stale or (
                id(tensor) not in self.values and tensor.untyped_storage()._cdata in self.written
            ):
                raise ConfigError(IN_PLACE)
        operator = func._schema.name.removeprefix("aten::")
        kwargs = _without_rounding(operator, args, kwargs)
        followed = [tensor for tensor in tensors if id(tensor) in self.values]
        if not followed or operator in WITHOUT_VALUES:
            return func(*args, **kwargs)
        arguments = _named_arguments(func, args, kwargs)
        arguments = tree_map(lambda leaf: self.values.get(id(leaf), leaf), arguments)
        target = args[0] if func._schema.is_mutable else None
        if target is not None and not isinstance(target, Tensor):
            raise ConfigError(
                f"the network calls {operator} on several tensors in place; call it on each of them"
            )
        result = func(*args, **kwargs)
        results = result if isinstance(result, tuple | list) else (result,)
        if not any(isinstance(part, Tensor) for part in results):
            raise ConfigError(
                f"the network asks a tensor for its value ({operator}); its forward must be free of control flow over "
                "tensors"
            )
        if target is not None:
            self._wrote(target)
        outputs = tuple(self.follow(part) if isinstance(part, Tensor) else None for part in results)
        operator = operator.removesuffix("_")
        name = self._name(operator, tensors)
        whole = next((part.dtype for part in results if not part.is_floating_point()), None)
        if (
            operator in ("_to_copy", "copy")
            and whole is not None
            and any(t.is_floating_point() for t in followed)
        ):
            operator = f"conversion to {str(whole).removeprefix('torch.')}"
        self.nodes.append(Node(operator, func, arguments, outputs, name))
        return result

    def _wrote(self, target: Tensor) -> None:
        memory = target.untyped_storage()._cdata
        if id(target) not in self.values:
            self.written.add(memory)
        self.stale |= {
            key
            for key, other in self.kept.items()
            if other is not target and other.untyped_storage()._cdata == memory
        }

    def _name(self, operator: str, tensors: list[Tensor]) -> str:
        for tensor in tensors:
            owner, _, parameter = self.owners.get(tensor.untyped_storage()._cdata, ("", "", ""))
            if owner and parameter == "weight":
                return owner
        path, is_leaf = self.path[-1]
        operator = operator.removesuffix("_with_indices").strip("_")
        return path if path and is_leaf else f"{path}.{operator}".strip(".")


def _named_arguments(func: Any, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments by name, defaults included."""
    found = {}
    for place, argument in enumerate(func._schema.arguments):
        if place < len(args):
            found[argument.name] = args[place]
        elif argument.name in kwargs:
            found[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            found[argument.name] = argument.default_value
    return found


def _live(nodes: list[Node], result: Value) -> tuple[Node, ...]:
    """The operators that the result depends on."""
    needed, live = {result}, []
    for node in reversed(nodes):
        if needed.intersection(value for value in node.outputs if value is not None):
            needed |= {leaf for leaf in tree_leaves(dict(node.arguments)) if isinstance(leaf, Value)}
            live.append(node)
    return tuple(reversed(live))


def _first_line(failure: Exception) -> str:
    return (str(failure).splitlines() or [type(failure).__name__])[0]


def _described(result: Any) -> str:
    if isinstance(result, Tensor):
        return "a tensor that does not depend on its input"
    return f"a {type(result).__name__}"
