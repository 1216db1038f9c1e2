"""Which results of a network are handed on in strips, and which of a layer's bytes this keeps in near caches.

A large result that only the next layer reads never exists as a whole: the native network computes some rows of it, lets
the next layer use them, and goes on. Layers that follow each other in this way are a *chain*. What they hand on stays
in the level 2 cache; their weights are read once for every strip.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.precision import _native
from pipeline.precision.plan import N_BYTES, Layer

STRIP_BYTES = 384 << 10  # bytes that a chain hands on at a time; `cache_bytes` in native/chain.cpp

Step = tuple[Any, int, int]


@dataclass(frozen=True)
class Strips:
    """How one layer of a chain works.

    Attributes:
        reads: Whether its input is handed to it in strips.
        gives: Whether its result is handed on in strips.
        n: Least number of strips of a sample.
        weight_bytes: Packed weights of the whole chain.
    """

    reads: bool
    gives: bool
    n: int
    weight_bytes: int


def handed_on(steps: Sequence[Step]) -> list[bool]:
    """Find the steps of a native network whose results are handed on in strips.

    To test a result, a second reader of it is added: the reader is a stage itself and splits the chain in two.

    Args:
        steps: Packed layer, number of the value that it reads, and of the one that it adds or -1, as `_native.Network`
            takes them.
    """
    values = [value for _, *read in steps for value in read]
    n_stages = _native.Network(steps, 1).n_stages
    return [
        following[1] == place
        and values.count(place) == 1
        and _native.Network([*steps, following], 1).n_stages == n_stages + 2
        for place, following in enumerate(steps[1:], 1)
    ] + [False]


def strips_of(layers: Sequence[Layer], steps: Sequence[Step]) -> list[Strips | None]:
    """Return for each layer how it works in strips; None for a layer that is in no chain."""
    gives = handed_on(steps)
    starts = [place for place in range(len(layers)) if place == 0 or not gives[place - 1]] + [len(layers)]
    found: list[Strips | None] = []
    for start, end in pairwise(starts):
        if end - start == 1:
            found.append(None)
            continue
        between = sum(
            math.prod(layer.output_shape) * N_BYTES[layer.output_dtype] for layer in layers[start : end - 1]
        )
        weights = sum(int(steps[place][0].weight_bytes) for place in range(start, end))
        found += [
            Strips(
                reads=place > start,
                gives=gives[place],
                n=math.ceil(between / STRIP_BYTES),
                weight_bytes=weights,
            )
            for place in range(start, end)
        ]
    return found
