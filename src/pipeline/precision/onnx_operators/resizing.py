"""Images of another size."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from torch import Tensor
from torch.nn import functional

from pipeline.precision.onnx_operators.table import Refused, operator

T = TypeVar("T", int, float)


@operator("Resize", "Upsample")
def _resize(
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    opset: int = 13,
) -> Tensor:
    if opset < 10 or opset == 10:  # Upsample, whose second input is what Resize has third
        roi, scales, coordinate_transformation_mode, nearest_mode = None, roi, "asymmetric", "floor"
    factors: list[float] | None = (
        [float(n) for n in scales] if scales is not None and scales.numel() else None
    )
    size = [int(n) for n in sizes] if sizes is not None and sizes.numel() else None
    if axes is not None:
        factors = None if factors is None else _of_all_axes(factors, [1.0] * x.ndim, axes)
        size = None if size is None else _of_all_axes(size, list(x.shape), axes)
    if (
        x.ndim != 4
        or antialias
        or (size and keep_aspect_ratio_policy != "stretch")
        or (factors and factors[:2] != [1.0, 1.0])
        or (size and size[:2] != list(x.shape[:2]))
    ):
        raise Refused(
            "resizes other than images, or with antialias or a kept aspect ratio; wanted rows and columns only"
        )
    lengths = x.shape[2:]
    if size is None and factors is None:
        raise Refused("has neither scales nor sizes; wanted one of them")
    if size is not None:
        target, ratio = size[2:], [t / n for t, n in zip(size[2:], lengths, strict=True)]
    else:
        ratio = (factors or [])[2:]  # sizes are rounded down in binary32, as by engines
        target = [math.floor(np.float32(n) * np.float32(f)) for n, f in zip(lengths, ratio, strict=True)]
    # Coordinates follow the scales, unless torch would round these to another size.
    rounded = [math.floor(n * f) for n, f in zip(lengths, ratio, strict=True)]
    by: dict[str, Any] = {"size": target} if size or rounded != target else {"scale_factor": ratio}
    whole = all(r == int(r) for r in ratio)
    if mode == "nearest":
        # If every pixel is repeated equally often, all but one of the definitions of the nearest pixel agree.
        same = whole and coordinate_transformation_mode in ("half_pixel", "pytorch_half_pixel")
        if same or (coordinate_transformation_mode == "asymmetric" and nearest_mode == "floor"):
            return functional.interpolate(x, **by, mode="nearest")
        raise Refused(
            f"takes nearest pixels by {coordinate_transformation_mode}, {nearest_mode}; wanted asymmetric, floor"
        )
    aligned = coordinate_transformation_mode == "align_corners"
    if mode != "linear" or not (
        aligned or coordinate_transformation_mode in ("half_pixel", "pytorch_half_pixel")
    ):
        raise Refused(f"has mode {mode!r} by {coordinate_transformation_mode}; wanted nearest or linear")
    return functional.interpolate(x, **by, mode="bilinear", align_corners=aligned)


def _of_all_axes(given: Sequence[T], others: list[T], axes: Sequence[int]) -> list[T]:
    """Return values for all axes in order: those given for some of them, and `others` for the rest."""
    found = list(others)
    for axis, value in zip(axes, given, strict=True):
        found[axis] = value
    return found
