"""Operators that only move numbers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.precision.onnx_operators.table import Refused, operator


@operator("Flatten")
def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis % (x.ndim + 1) if axis >= 0 else axis % x.ndim
    return x.reshape(math.prod(x.shape[:axis]), -1)


@operator("Reshape")
def _reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    sizes = [int(n) for n in shape]
    if not allowzero:
        sizes = [x.shape[place] if n == 0 else n for place, n in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Transpose")
def _transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(*(perm if perm is not None else reversed(range(x.ndim))))


@operator("Squeeze")
def _squeeze(x: Tensor, given: Tensor | None = None, *, axes: Sequence[int] | None = None) -> Tensor:
    found = axes if given is None else given
    dims = (
        [n for n, size in enumerate(x.shape) if size == 1]
        if found is None
        else [int(n) % x.ndim for n in found]
    )
    return x.reshape([size for n, size in enumerate(x.shape) if n not in dims])


@operator("Unsqueeze")
def _unsqueeze(x: Tensor, given: Tensor | None = None, *, axes: Sequence[int] | None = None) -> Tensor:
    found = [int(axis) for axis in (axes if given is None else given)]  # type: ignore[union-attr]
    rank = x.ndim + len(found)
    for axis in sorted(axis % rank for axis in found):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def _concat(*tensors: Tensor, axis: int) -> Tensor:
    return torch.cat(tensors, axis)


@operator("Split")
def _split(
    x: Tensor,
    given: Tensor | None = None,
    *,
    axis: int = 0,
    split: Sequence[int] | None = None,
    num_outputs: int | None = None,
) -> tuple[Tensor, ...]:
    sizes = split if given is None else given
    if sizes is not None:
        return torch.split(x, [int(n) for n in sizes], axis)
    if num_outputs is None:
        raise Refused("has no sizes to split into; wanted split or num_outputs")
    return torch.split(x, -(-x.shape[axis] // num_outputs), axis)


@operator("Slice")
def _slice(
    x: Tensor,
    start_input: Tensor | None = None,
    end_input: Tensor | None = None,
    axes_input: Tensor | None = None,
    steps_input: Tensor | None = None,
    *,
    starts: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
) -> Tensor:
    first = [int(n) for n in (starts if start_input is None else start_input)]  # type: ignore[union-attr]
    last = [int(n) for n in (ends if end_input is None else end_input)]  # type: ignore[union-attr]
    chosen = axes if axes_input is None else axes_input.tolist()
    along = list(range(len(first))) if chosen is None else [int(n) for n in chosen]
    steps = [1] * len(first) if steps_input is None else [int(n) for n in steps_input]
    for start, end, axis, step in zip(first, last, along, steps, strict=True):
        size = x.shape[axis]
        places = (
            range(size)[start:end:step]
            if step > 0
            else range(size)[start : end if end >= -size else None : step]
        )
        if step > 0:
            x = x.narrow(axis, places.start, len(places) * step - step + 1 if len(places) else 0)
            x = x[(slice(None),) * (axis % x.ndim) + (slice(None, None, step),)] if step > 1 else x
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
    return x


@operator("Gather")
def _gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    size = x.shape[axis]
    flat = torch.where(indices < 0, indices + size, indices).flatten().long()
    part = x.narrow(axis, int(flat), 1) if flat.numel() == 1 else x.index_select(axis, flat)
    axis = axis % x.ndim
    return part.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@operator("DepthToSpace")
def _depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "CRD":
        return functional.pixel_shuffle(x, blocksize)
    n, channels, rows, columns = x.shape
    blocks = x.reshape(n, blocksize, blocksize, channels // blocksize**2, rows, columns)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, rows * blocksize, columns * blocksize)


@operator("SpaceToDepth")
def _space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    n, channels, rows, columns = x.shape
    blocks = x.reshape(n, channels, rows // blocksize, blocksize, columns // blocksize, blocksize)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, -1, rows // blocksize, columns // blocksize)
