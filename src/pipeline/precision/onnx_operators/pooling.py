"""Maxima and means over windows."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.precision.onnx_operators.padding import pad, sides_of
from pipeline.precision.onnx_operators.table import Refused, operator


@operator("MaxPool")
def _max_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Tensor:
    rank = len(kernel_shape)
    if rank != 2 or storage_order:
        raise Refused("pools other than images, or by columns; wanted two axes and storage_order=0")
    strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
    sides = sides_of(x, kernel_shape, strides, dilations, pads, auto_pad)
    symmetric = sides[:2] == sides[2:] and all(
        2 * pad <= k for pad, k in zip(sides[:2], kernel_shape, strict=True)
    )
    if symmetric:
        return functional.max_pool2d(x, list(kernel_shape), strides, sides[:2], dilations, bool(ceil_mode))
    if dilations != [1, 1] or ceil_mode:
        raise Refused(f"pads {sides} unevenly, with dilation or ceil_mode; wanted neither")
    return padded_max_pool(x, list(kernel_shape), strides, sides)


def padded_max_pool(x: Tensor, kernel: list[int], strides: list[int], sides: list[int]) -> Tensor:
    """Return maxima over windows that reach unevenly beyond the image, which is padded by the smallest number."""
    least = torch.finfo(torch.float32).min
    return functional.max_pool2d(pad(x, sides, least), kernel, strides)


@operator("AveragePool")
def _average_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    rank = len(kernel_shape)
    if rank != 2 or any(step != 1 for step in dilations or ()):
        raise Refused(
            f"has dilations {list(dilations or ())} or another rank than 2; wanted a dense window on images"
        )
    strides = list(strides or [1] * rank)
    sides = sides_of(x, kernel_shape, strides, [1] * rank, pads, auto_pad)
    if sides[:2] == sides[2:] and all(2 * pad <= k for pad, k in zip(sides[:2], kernel_shape, strict=True)):
        return functional.avg_pool2d(
            x, list(kernel_shape), strides, sides[:2], bool(ceil_mode), bool(count_include_pad)
        )
    if ceil_mode:
        raise Refused(f"pads {sides} unevenly with ceil_mode; wanted one of them")
    total = functional.avg_pool2d(pad(x, sides), list(kernel_shape), strides)
    if count_include_pad:
        return total
    inside = functional.avg_pool2d(pad(torch.ones_like(x[:1, :1]), sides), list(kernel_shape), strides)
    return total / inside
