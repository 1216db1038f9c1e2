"""Padding: of a convolution or pooling as its attributes tell it, and as an operator."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from pipeline.precision.onnx_operators.table import Refused, operator


def sides_of(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
) -> list[int]:
    """Padding as ONNX has it: the beginnings of all axes, then their ends."""
    rank = len(kernel)
    if auto_pad in ("NOTSET", "VALID", ""):
        return list(pads) if pads is not None and auto_pad != "VALID" else [0] * 2 * rank
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise Refused(f"has auto_pad={auto_pad}; wanted NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    before, after = [], []
    for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        small, large = total // 2, total - total // 2
        before.append(small if auto_pad == "SAME_UPPER" else large)
        after.append(large if auto_pad == "SAME_UPPER" else small)
    return before + after


def pad(x: Tensor, sides: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last axes, given beginnings and ends."""
    rank = len(sides) // 2
    pairs = [side for axis in reversed(range(rank)) for side in (sides[axis], sides[axis + rank])]
    return functional.pad(x, pairs, value=value)


@operator("Pad")
def _pad(
    x: Tensor,
    given: Tensor | None = None,
    constant: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    mode: str = "constant",
    pads: Sequence[int] | None = None,
    value: float = 0.0,
) -> Tensor:
    sides = [int(n) for n in (pads if given is None else given)]  # type: ignore[union-attr]
    if axes is not None:
        every = [0] * 2 * x.ndim
        for place, axis in enumerate(int(n) % x.ndim for n in axes):
            every[axis], every[axis + x.ndim] = sides[place], sides[place + len(axes)]
        sides = every
    if mode == "constant":
        return pad(x, sides, value if constant is None else float(constant))
    if mode not in ("reflect", "edge") or x.ndim != 4 or any(sides[:2]) or any(sides[4:6]):
        raise Refused(f"pads in mode {mode!r}; wanted constant, or reflect or edge on images")
    lengths = [sides[3], sides[7], sides[2], sides[6]]
    return functional.pad(x, lengths, mode="reflect" if mode == "reflect" else "replicate")
