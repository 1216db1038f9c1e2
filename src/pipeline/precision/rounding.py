"""Round float64 weights to binary16, once, and report what that did."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.precision.plan import Layer, RoundingReport
from pipeline.precision.tracer import Affine, Index

LARGEST_HALF = 65504.0
HALF_OVERFLOW = 65520.0  # from here on, rounding to nearest gives infinity
SMALLEST_NORMAL_HALF = 2.0**-14
# The epilogue multiplies by 2^e in binary32: both 2^e and 2^-e are normal numbers there.
LARGEST_EXPONENT = 126


def scale_exponents(weight: Tensor) -> tuple[int, ...]:
    """Choose for each output channel an e such that weight * 2^-e suits binary16; 0 if the weight itself does.

    A channel is scaled if its largest weight would overflow or be subnormal; then that weight lands in [1, 2). So the
    rounding error of every weight is at most 2^-11 of the channel's largest, scaled or not: a subnormal number in an
    unscaled channel is off by at most 2^-25 = 2^-11 * 2^-14.

    Args:
        weight: Shape (outputs, ...), float64, finite.

    Returns:
        One exponent per output, or nothing if all are 0.
    """
    exponents = []
    for largest in weight.abs().flatten(1).amax(dim=1).tolist():
        fits = largest == 0 or SMALLEST_NORMAL_HALF <= largest < HALF_OVERFLOW
        exponent = 0 if fits else math.frexp(largest)[1] - 1
        exponents.append(max(-LARGEST_EXPONENT, min(LARGEST_EXPONENT, exponent)))
    return tuple(exponents) if any(exponents) else ()


def round_weights(weight: Tensor) -> tuple[Tensor, tuple[int, ...], RoundingReport]:
    """Round float64 weights to binary16, to nearest even, directly and not by way of float32.

    Args:
        weight: Shape (outputs, ...), float64, finite.

    Returns:
        The stored weights, float16; the exponents of `scale_exponents`; the report.
    """
    exponents = scale_exponents(weight)
    exact = weight.numpy()
    column = _column(exponents, exact)
    stored = np.ldexp(exact, -column).astype(np.float16)
    back = np.ldexp(stored.astype(np.float64), column)
    error = np.linalg.norm((exact - back).reshape(len(exact), -1), axis=1)
    norm = np.linalg.norm(exact.reshape(len(exact), -1), axis=1)
    relative = float(np.linalg.norm(error) / np.linalg.norm(norm)) if norm.any() else 0.0
    magnitude = np.abs(stored)
    scaled = [e for e in exponents if e != 0]
    report = RoundingReport(
        sqnr_db=-20.0 * math.log10(relative) if relative > 0 else math.inf,
        relative_error=relative,
        worst_channel_error=float(np.max(error / np.where(norm > 0, norm, 1.0))),
        n_weights=exact.size,
        n_overflow=int(np.count_nonzero(np.abs(exact) >= HALF_OVERFLOW)),
        n_subnormal=int(np.count_nonzero((magnitude > 0) & (magnitude < SMALLEST_NORMAL_HALF))),
        n_flushed=int(np.count_nonzero((stored == 0) & (exact != 0))),
        n_scaled=len(scaled),
        scale_exponent_min=min(scaled, default=0),
        scale_exponent_max=max(scaled, default=0),
    )
    return torch.from_numpy(stored), exponents, report


def round_parameters(
    layers: Sequence[Layer], parameters: Mapping[str, Affine | Index]
) -> tuple[list[Layer], dict[str, Tensor], dict[str, Tensor]]:
    """Round the weights of all layers, and keep all other parameters as they are, in float32.

    Returns:
        The layers, with what rounding did to each; the tensors as stored; the tensors in float32.

    Raises:
        ConfigError: If a weight or bias is not finite, or beyond float32.
    """
    half: dict[str, Tensor] = {}
    single: dict[str, Tensor] = {}
    rounded = []
    for layer in layers:
        affine = parameters.get(layer.name)
        if affine is not None:
            own = {key: _kept(value) for key, value in affine.tensors(layer.name).items()}
            half |= own
            single |= own
        if layer.has_weights:
            assert isinstance(affine, Affine)
            check_range(layer.name, affine.weight, affine.bias)
            half[f"{layer.name}.weight"], exponents, report = round_weights(affine.weight)
            layer = layer.with_rounding(exponents, report)
        rounded.append(layer)
    return rounded, half, single


def _kept(tensor: Tensor) -> Tensor:
    """Return parameters that are not rounded to binary16: float32, or places."""
    return tensor.float() if tensor.is_floating_point() else tensor


def widen(weight: Tensor, exponents: tuple[int, ...]) -> Tensor:
    """Return the float32 weights that stored ones stand for: weight * 2^e per output channel."""
    if not exponents:
        return weight.float()
    column = _column(exponents, weight.numpy())
    return torch.from_numpy(np.ldexp(weight.double().numpy(), column)).float()


def check_range(name: str, weight: Tensor, bias: Tensor) -> None:
    """Refuse parameters that no available precision can hold.

    Raises:
        ConfigError: If a weight or bias is not finite, or beyond float32 after normalization was folded in.
    """
    for what, tensor in (("weight", weight), ("bias", bias)):
        largest = tensor.abs().max().item()
        if not largest <= torch.finfo(torch.float32).max:
            raise ConfigError(
                f"layer {name!r} has a {what} of magnitude {largest:g}, which float32 cannot hold; "
                "wanted finite parameters, so look at how the network was trained"
            )


def storable_in_half(activations: Tensor) -> bool:
    """Whether binary16 holds these float32 activations as well as it holds normal numbers, with room above.

    Magnitudes must be below half of the largest number, since other inputs may give larger ones, and the rounding error
    at most 2^-10 of the norm: twice the unit roundoff, exceeded only if much of the signal is subnormal.
    """
    if not activations.abs().max() < LARGEST_HALF / 2:
        return False
    exact = activations.double()
    return bool(torch.linalg.vector_norm(activations.half().double() - exact) <= 2.0**-10 * exact.norm())


def _column(exponents: tuple[int, ...], like: np.ndarray) -> np.ndarray:
    """The exponents as a column that broadcasts over the weights of a channel."""
    column = np.array(exponents or [0] * len(like), dtype=np.int32)
    return column.reshape(-1, *[1] * (like.ndim - 1))
