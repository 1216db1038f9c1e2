"""Arithmetic of two tensors, products, reductions, and all operators that torch has under another name."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.precision.onnx_operators.table import operator, plain

_PLAIN: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Add": torch.add, "And": torch.logical_and, "Ceil": torch.ceil, "Cos": torch.cos,
    "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Greater": torch.gt,
    "GreaterOrEqual": torch.ge, "HardSwish": functional.hardswish, "Identity": lambda x: x, "Less": torch.lt,
    "LessOrEqual": torch.le, "Log": torch.log, "MatMul": torch.matmul, "Mul": torch.mul, "Neg": torch.neg,
    "Not": torch.logical_not, "Or": torch.logical_or, "Reciprocal": torch.reciprocal, "Relu": torch.relu,
    "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Sqrt": torch.sqrt,
    "Sub": torch.sub, "Tanh": torch.tanh, "Where": torch.where, "Softplus": functional.softplus,
    "Mish": functional.mish, "Expand": lambda x, shape: x * torch.ones([int(n) for n in shape], dtype=x.dtype),
    "Tile": lambda x, repeats: x.repeat([int(n) for n in repeats]),
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
}  # fmt: skip
for _name, _function in _PLAIN.items():
    plain(_name, _function)


@operator("Div")
def _div(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point() or b.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


@operator("Pow")
def _pow(a: Tensor, b: Tensor) -> Tensor:
    return a ** (float(b) if b.numel() == 1 else b)


@operator("Min")
def _min(*tensors: Tensor) -> Tensor:
    return _extreme(tensors, torch.minimum, "max")


@operator("Max")
def _max(*tensors: Tensor) -> Tensor:
    return _extreme(tensors, torch.maximum, "min")


def _extreme(tensors: Sequence[Tensor], both: Callable[[Tensor, Tensor], Tensor], bound: str) -> Tensor:
    """Return the extreme; that of a tensor and a number is a clamping, which can be fused."""
    result = tensors[0]
    for other in tensors[1:]:
        first, second = (result, other) if other.numel() == 1 else (other, result)
        if second.numel() == 1 and second.ndim <= first.ndim and first.is_floating_point():
            result = first.clamp(**{bound: float(second)})
        else:
            result = both(result, other)
    return result


@operator("Gemm")
def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    product = (a.T if transA else a) @ (b.T if transB else b)
    product = product if alpha == 1.0 else alpha * product
    return product if c is None else product + (c if beta == 1.0 else beta * c)


@operator("Einsum")
def _einsum(*tensors: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *tensors)


def _axes(x: Tensor, axes: Tensor | Sequence[int] | None, empty: int = 0) -> list[int] | None:
    """Return the axes to reduce, from an attribute or an input; None if there is nothing to do."""
    found = [] if axes is None else [int(axis) % x.ndim for axis in axes]
    return found or (None if empty else list(range(x.ndim)))


def _reduction(name: str, function: Callable[[Tensor, list[int], bool], Tensor]) -> None:
    def reduce(
        x: Tensor,
        given: Tensor | None = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        found = _axes(x, axes if given is None else given, noop_with_empty_axes)
        return x if found is None else function(x, found, bool(keepdims))

    operator(name)(reduce)


_reduction("ReduceMean", lambda x, axes, keep: x.mean(axes, keepdim=keep))
_reduction("ReduceSum", lambda x, axes, keep: x.sum(axes, keepdim=keep))
_reduction("ReduceMax", lambda x, axes, keep: x.amax(axes, keepdim=keep))
_reduction("ReduceL2", lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep))
