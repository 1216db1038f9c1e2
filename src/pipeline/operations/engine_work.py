"""The bytes and operations of a layer in another engine, from the shapes and types in the engine's own profile."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.precision import Roofs
from pipeline.precision.roofline import bound
from pipeline.precision.work import Work

Shape = Sequence[int]

CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv", "Convolution", "GroupConvolution")
TRANSPOSED = ("ConvTranspose", "Deconvolution")
PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "FullyConnected")


@dataclass(frozen=True)
class Ran:
    """One layer of one run, as the engine describes it: the kernel that ran, and its median wall time.

    Weights are the constants that the layer reads, activations all else that it reads and writes; None where the engine
    doesn't tell. `in_pairs` says that bfloat16 numbers are multiplied in pairs.
    """

    kernel: str
    seconds: float
    weight_bytes: float | None = None
    activation_bytes: float | None = None
    flops: float | None = None
    in_pairs: bool = False

    @property
    def n_bytes(self) -> float | None:
        """All bytes that the layer moves, counting each number once."""
        if self.weight_bytes is None or self.activation_bytes is None:
            return None
        return self.weight_bytes + self.activation_bytes


def flops_of(kind: str, inputs: Sequence[Shape], output: Shape) -> float | None:
    """Count the FLOPs of a convolution's or a matrix product's definition, two for each multiply-add; None for others.

    Args:
        kind: The engine's name for the operation.
        inputs: Shapes of the inputs: images or a matrix first, weights or another matrix second.
        output: Shape of the result; for images, the second dimension counts the output channels.
    """
    if len(inputs) < 2:
        return None
    first, second = inputs[:2]
    if kind in CONVOLUTIONS and len(output) > 2:
        return 2.0 * math.prod(output) * math.prod(second) / output[1]
    if kind in TRANSPOSED and len(first) > 2:
        return 2.0 * math.prod(first) * math.prod(second) / first[1]
    if kind in PRODUCTS and first:
        # Either matrix may be transposed: the inner dimension is one that both have.
        inner = first[-1] if first[-1] in second[-2:] else first[-2]
        return 2.0 * math.prod(output) * inner
    return None


def bounds(layers: Mapping[str, Ran], roofs: Roofs) -> dict[str, str]:
    """Name the limit of each layer within the network, where its bytes are known: compute, or a level of memory."""
    known = {
        name: Work(
            flops=ran.flops or 0.0,
            weight_bytes=ran.weight_bytes,
            activation_bytes=ran.activation_bytes,
            conversions=0.0,
            routine="products bf16" if ran.in_pairs else "",
        )
        for name, ran in layers.items()
        if ran.weight_bytes is not None and ran.activation_bytes is not None
    }
    resident = sum(work.weight_bytes for work in known.values()) + max(
        (work.activation_bytes for work in known.values()), default=0.0
    )
    return {name: bound(work, roofs, mode="network", resident=resident).term for name, work in known.items()}
