"""How often a network uses its weights, seen by hooks or not, counted in autograd's graph."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge


def count_uses(output: object) -> Counter[int]:
    """Count the operations behind an output that take a parameter directly, by the parameter's `id`."""
    nodes = [t.grad_fn for t in tensors_of(output) if t.grad_fn is not None]
    known, uses = set(nodes), Counter[int]()
    while nodes:
        for node, _ in nodes.pop().next_functions:
            if node is None:
                continue
            if (parameter := getattr(node, "variable", None)) is not None:
                uses[id(parameter)] += 1
            elif node not in known:
                known.add(node)
                nodes.append(node)
    return uses


def tensors_of(output: object) -> Iterator[Tensor]:
    """The tensors in what a network returns."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from tensors_of(part)
    elif isinstance(output, list | tuple):
        for part in output:
            yield from tensors_of(part)
    elif is_dataclass(output):
        for field in fields(output):
            yield from tensors_of(getattr(output, field.name))


class Fate(Enum):
    """What the backward pass under way does with the gradient of a parameter."""

    SPARED = "it is not computed"
    ASKED = "it is what `torch.autograd.grad` returns"
    ADDED = "it is added to the parameter's `grad`"


def fate_of_gradient(parameter: Tensor, known: dict[int, Node]) -> Fate:
    """Tell what the backward pass under way does with the gradient of a parameter.

    Args:
        parameter: The parameter.
        known: Autograd's nodes that accumulate gradients of CPU parameters, by the parameter's `id`; this function
            fills it. Asking autograd takes longer, but a parameter that has changed its type has another node.
    """
    if not parameter.requires_grad:
        return Fate.SPARED
    if id(parameter) in known and (fate := _fate(known[id(parameter)])) != Fate.SPARED:
        return fate
    node: Node = get_gradient_edge(parameter).node
    if parameter.is_cpu:  # on a GPU a node belongs to the stream that was in use when it was made
        known[id(parameter)] = node
    return _fate(node)


def _fate(node: Node) -> Fate:
    try:
        return Fate.ADDED if torch._C._will_engine_execute_node(node) else Fate.SPARED
    except RuntimeError as failure:
        if "autograd.grad" not in str(failure):  # the message for a parameter whose gradient is asked for
            raise
        return Fate.ASKED


def is_transformed() -> bool:
    """Whether a transformation of `torch.func`, such as `vmap` or `grad`, is under way, whose tensors stay inside."""
    return torch._C._functorch.peek_interpreter_stack() is not None
