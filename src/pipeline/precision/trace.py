"""How a torch module becomes layers: float64 parameters, batch normalization folded in, functions and sums fused.

The module runs once and its operators are recorded (see `record`); each of them becomes a layer, a change of one, or a
choice among the numbers of one (see `views`). A normalization y = g (z - m) / sqrt(v + eps) + b, with running mean m
and variance v, behind z = W x + c becomes W' = s W and c' = s (c - m) + b with s = g / sqrt(v + eps), all in float64
[1, section 3.1]. Whatever else multiplies and adds constants is folded alike, or is a depthwise convolution of its own.

References:
    [1] Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
        CVPR 2018.
"""

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.precision.hard_swish import fuse_hard_swish
from pipeline.precision.operators.table import take
from pipeline.precision.plan import Layer
from pipeline.precision.record import double_copy, record, unrounded, without_fused_attention
from pipeline.precision.reference import reference
from pipeline.precision.torch_state import plain_torch
from pipeline.precision.tracer import Affine, Index, Parameters, Tracer, tensors_of

__all__ = ["Affine", "Index", "check_trace", "tensors_of", "trace"]

# Folding only re-orders sums in float64: at most 1e-16 times the number of their terms, about 1e-12 for 10^4 of them.
# A network would have to amplify that a million times to come near.
LARGEST_DIFFERENCE = 1e-6


def trace(module: nn.Module, sample: Tensor) -> tuple[tuple[Layer, ...], Parameters]:
    """Turn a module into layers, with activations planned as float32, and their parameters by layer name.

    Args:
        module: Supported operators with one input and one output; it is copied, not changed.
        sample: One or more inputs, shape (n, channels, rows, columns); the first one runs.

    Raises:
        ConfigError: If an operator is not supported; the message names its module.
    """
    recording = record(_copied(module), sample[:1].detach().cpu().double())
    tracer = Tracer(recording)
    for node in recording.nodes:
        take(tracer, node)
    return fuse_hard_swish(*tracer.finish(recording.result))


def check_trace(
    module: nn.Module,
    layers: Sequence[Layer],
    parameters: Mapping[str, Affine | Index],
    samples: Tensor,
    *,
    one_by_one: bool = False,
) -> None:
    """Compare the traced layers with the module itself, both in float64, on several inputs at once or one by one.

    The last of the inputs is not a sample but random. Samples alone may be one, several equal ones, or whole numbers,
    which would not reveal a module that mixes the inputs of a batch or drops fractions.

    Raises:
        ConfigError: If the module does not run on the samples, or the layers give something else.
    """
    x = _with_random(samples.detach().cpu().double())
    found = reference(layers, tensors_of(parameters), x)[-1].flatten(1)
    try:
        with plain_torch(torch.float64), torch.no_grad(), without_fused_attention(), unrounded():
            copied = _copied(module)
            wanted = torch.cat(
                [copied(part.clone()) for part in torch.split(x, 1 if one_by_one else len(x))]
            ).flatten(1)
    except ConfigError:  # its message says what is wrong
        raise
    except (RuntimeError, ValueError) as failure:
        raise ConfigError(
            f"the network does not run on {len(x)} inputs at once: {str(failure).splitlines()[0]}"
        ) from failure
    if not wanted[: max(len(x) - 1, 1)].isfinite().all():
        raise ConfigError(
            "the network gives NaN or infinity for inputs of its calibration set; look at which operator does so"
        )
    difference = wanted.new_tensor(math.inf)
    if found.shape == wanted.shape:
        known = found.isfinite() | wanted.isfinite()  # the network may not be made for a random input
        difference = torch.where(known, found - wanted, 0.0).norm()
        wanted = torch.where(known, wanted, 0.0)
    if not difference <= LARGEST_DIFFERENCE * wanted.norm():
        raise ConfigError(
            f"the converted layers' result differs from the network's by {float(difference / wanted.norm()):.1g} of "
            "its norm in float64; the network may mix the inputs of a batch, take another path for other inputs, or "
            "change numbers outside its operators: make it compute the same for every input"
        )


def _with_random(samples: Tensor) -> Tensor:
    """Return the samples with a random input of their range in place of the last one, or after the only one."""
    low, high = (float(end) for end in samples.aminmax())
    if low == high:
        low, high = low - 1.0, high + 1.0
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(samples[:1].shape, generator=generator, dtype=torch.float64) * (high - low) + low
    return torch.cat([samples[: max(len(samples) - 1, 1)], random])


def _copied(module: nn.Module) -> nn.Module:
    try:
        return double_copy(module)
    except (RuntimeError, TypeError, copy.Error) as failure:
        raise ConfigError(
            f"the network cannot be copied ({str(failure).splitlines()[0]}); conversion leaves yours as it is"
        ) from failure
