"""Constants, casts, and what is known from shapes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.precision.onnx_operators.table import Refused, operator

TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float32, 11: torch.float64, 16: torch.float32,
}  # fmt: skip


@operator("Cast")
def _cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    if to not in TYPES:
        raise Refused(f"casts to ONNX's type {to}; wanted one of numbers or truth values")
    return x.to(x.dtype if x.is_floating_point() and TYPES[to].is_floating_point else TYPES[to])


@operator("CastLike")
def _cast_like(x: Tensor, like: Tensor, *, saturate: int = 1) -> Tensor:
    return x if x.is_floating_point() and like.is_floating_point() else x.to(like.dtype)


@operator("Shape")
def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


@operator("Size")
def _size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


@operator("ConstantOfShape")
def _constant_of_shape(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    filler = torch.zeros(1, dtype=torch.float32) if value is None else value
    return filler.new_full([int(n) for n in shape], filler.item())


@operator("Range")
def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("Constant")
def _constant(
    *,
    value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Tensor:
    if value is not None:
        return value
    for found, dtype in (
        (value_float, torch.float32),
        (value_floats, torch.float32),
        (value_int, torch.int64),
        (value_ints, torch.int64),
    ):
        if found is not None:
            return torch.tensor(found, dtype=dtype)
    raise Refused("is a constant without a value; wanted numbers or a dense tensor")
