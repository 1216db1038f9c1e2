"""How rounding errors grow through the network, against float64."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.precision.execution import Execution
from pipeline.precision.plan import INPUT, Layer
from pipeline.precision.reference import reference
from pipeline.precision.rounding import LARGEST_HALF, SMALLEST_NORMAL_HALF
from pipeline.precision.routines import run_layer

UNIT_SINGLE = 2.0**-24  # unit roundoff of binary32
UNIT_HALF = 2.0**-11  # of binary16
UNIT_BRAIN = 2.0**-8  # of bfloat16
TINY_HALF = 2.0**-25  # half of binary16's smallest number: the largest error of rounding a subnormal number


def routine_bound(magnitude: Tensor, n_inputs: int, *, half_output: bool) -> Tensor:
    """Bound the error of the routines for linear and convolutional layers, given the weights and inputs as stored.

    A result is y = fl(s fl(sum_k w_k x_k) + b), the sum in binary32 over K = `n_inputs` products of numbers that
    binary32 holds exactly. The routines split it into several partial sums; but in whatever order K numbers are
    added, none of them takes part in more than K - 1 additions. Every product is rounded at most once itself (not at
    all with a fused multiply-add), s is a power of two, and adding b rounds once more. So each term of the exact
    result meets at most K + 1 factors (1 + d), |d| <= u = 2^-24, and with gamma_n = n u / (1 - n u) [1, lemma 3.1]

        |y - exact| <= gamma_{K+1} (|s| sum_k |w_k| |x_k| + |b|).

    One more factor is granted here for a scale that is not a power of two. A ReLU does not enlarge the error. Storing
    as binary16 rounds once more, relative to the result or, if it is subnormal there, by at most 2^-25.

    Args:
        magnitude: |s| |W| |x| + |b|, any shape.
        n_inputs: K, the products per result.
        half_output: Whether results are stored as binary16.

    References:
        [1] Higham, "Accuracy and stability of numerical algorithms", 2nd edition, SIAM 2002.
    """
    n = (n_inputs + 2) * UNIT_SINGLE
    error = magnitude * (n / (1 - n))
    return error + UNIT_HALF * (magnitude + error) + TINY_HALF if half_output else error


@dataclass(frozen=True)
class LayerError:
    """How far the half-precision network is from float64 after a layer, all errors before it included.

    Attributes:
        layer: The layer's name.
        relative_error: |y - exact| / |exact|, Frobenius norm over all samples.
        sqnr_db: -20 log10 of that; infinite if exact.
        added_error: The same quotient for exact inputs: the error that the layer adds by itself.
        growth: relative_error over the largest one among the results that the layer reads; None if these are exact.
        largest: The largest magnitude of the exact result; binary16 ends at 65504.
        n_saturated: Results of this layer that were stored as +-65504.
        n_subnormal: Results stored as subnormal numbers, with fewer than 11 bits.
        n_flushed: Results other than zero that are stored as zero because binary16 has no smaller number.
        n_results: Number of results.
    """

    layer: str
    relative_error: float
    sqnr_db: float
    added_error: float
    growth: float | None
    largest: float
    n_saturated: int
    n_subnormal: int
    n_flushed: int
    n_results: int


def layer_errors(
    layers: Sequence[Layer], parameters: Mapping[str, Tensor], execution: Execution, x: Tensor
) -> list[LayerError]:
    """Compare every layer's result in half precision with float64.

    Args:
        layers: The plan.
        parameters: The weights before rounding.
        execution: The network in half precision.
        x: Shape (n, channels, rows, columns), n >= 1.

    Raises:
        ValueError: If there is no sample.
    """
    if len(x) == 0:
        raise ValueError("wanted at least one sample to take errors of, found none")
    exact = dict(zip((layer.name for layer in layers), reference(layers, parameters, x), strict=True))
    values, relative = {INPUT: x.double(), **exact}, {INPUT: 0.0}
    errors = []
    for layer, native, stored in zip(layers, execution.native, execution.activations(x), strict=True):
        wanted = exact[layer.name]
        relative[layer.name] = relative_error(stored, wanted)
        alone = run_layer(
            layer, native, values[layer.source], None if layer.addend is None else values[layer.addend]
        )
        before = max(relative[source] for source in layer.sources)
        is_half = stored.dtype == torch.float16
        magnitude = stored.abs()
        errors.append(
            LayerError(
                layer=layer.name,
                relative_error=relative[layer.name],
                sqnr_db=decibels(relative[layer.name]),
                added_error=relative_error(alone, wanted),
                growth=relative[layer.name] / before if before > 0 else None,
                largest=wanted.abs().max().item(),
                n_saturated=int((magnitude >= LARGEST_HALF).sum()) if is_half else 0,
                n_subnormal=int(((magnitude > 0) & (magnitude < SMALLEST_NORMAL_HALF)).sum())
                if is_half
                else 0,
                n_flushed=int(((stored == 0) & (wanted != 0) & (wanted.abs() <= TINY_HALF)).sum())
                if is_half
                else 0,
                n_results=stored.numel(),
            )
        )
    return errors


def relative_error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact|, Frobenius norm; |found| where the exact is zero."""
    norm: float = torch.linalg.vector_norm(exact.double()).item()
    distance: float = torch.linalg.vector_norm(found.double() - exact.double()).item()
    return distance / norm if norm > 0 else distance


def decibels(relative: float) -> float:
    """Return the signal to noise ratio of a relative error, in dB; NaN for NaN."""
    return math.inf if relative == 0 else -20.0 * math.log10(relative)
