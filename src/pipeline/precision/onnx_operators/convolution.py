"""Convolutions and transposed convolutions."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from pipeline.precision.onnx_operators.padding import pad, sides_of
from pipeline.precision.onnx_operators.table import Refused, operator


@operator("Conv")
def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    rank = weight.ndim - 2
    if rank not in (1, 2):
        raise Refused(f"has weights of shape {tuple(weight.shape)}; wanted images of one or two dimensions")
    kernel = tuple(weight.shape[2:])
    if kernel_shape is not None and tuple(kernel_shape) != kernel:
        raise Refused(f"has kernel_shape {list(kernel_shape)} and weights of {list(kernel)}; wanted the same")
    strides = list(strides or [1] * rank)
    # A kernel of one row or column has nothing to dilate, and torch crashes on some images with such a dilation.
    dilations = [1 if k == 1 else d for k, d in zip(kernel, dilations or [1] * rank, strict=True)]
    sides = sides_of(x, kernel, strides, dilations, pads, auto_pad)
    convolve = functional.conv2d if rank == 2 else functional.conv1d
    padding = sides[:rank]
    if padding != sides[rank:]:
        x, padding = pad(x, sides), [0] * rank
    return convolve(x, weight, bias, strides, padding, dilations, group)


@operator("ConvTranspose")
def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    rank = weight.ndim - 2
    if rank != 2 or output_shape is not None or auto_pad not in ("NOTSET", "VALID"):
        raise Refused("has output_shape, auto_pad or another rank than 2; wanted pads in numbers, of images")
    sides = list(pads) if pads is not None and auto_pad == "NOTSET" else [0] * 4
    strides, dilations = list(strides or [1, 1]), list(dilations or [1, 1])
    extra = list(output_padding or [0, 0])
    full = functional.conv_transpose2d(x, weight, bias, strides, 0, extra, group, dilations)
    top, left, bottom, right = sides
    return full[:, :, top : full.shape[2] - bottom, left : full.shape[3] - right]
