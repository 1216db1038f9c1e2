"""A model of a factorization's seconds on many processes, from counts with few."""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.hmatrix import H2Matrix
from pipeline.hmatrix.partition import partition_level
from pipeline.hmatrix.parts import Tally

LATENCY, BANDWIDTH = 5e-6, 5e9  # seconds per message; bytes per second and process


@dataclass(frozen=True)
class Scaling:
    """Seconds of a factorization of the square with any number of processes, from counts with few.

    Attributes:
        leaf: Number of points in a leaf.
        flops: Operations of a box, by levels above the leaves; boxes further up cost as much as the last entry.
        stretch: Critical path of a level in boxes per part, by boxes per part.
        n_bytes: Bytes that a part sends on a level, per square root of its number of boxes, by levels above the leaves.
        rate: Operations per second.
    """

    leaf: float
    flops: list[float]
    stretch: dict[int, float]
    n_bytes: list[float]
    rate: float

    @classmethod
    def of(cls, A: H2Matrix, one: Tally, eight: Tally, rate: float) -> "Scaling":
        """Take the costs from a factorization by one part and one by eight, and critical paths from static plans."""
        tree, near = A.rows, A.form.interactions.near
        leaves = tree.n_levels - 1
        flops, n_bytes = [], []
        for level in range(leaves, 0, -1):
            total = sum(
                sum(step.values())
                for (what, at, _), step in one.flops.items()
                if at == level and what != "finish"
            )
            boxes = len(tree.level(level))
            if total:
                flops.append(total / boxes)
            sent = [
                sum(b for (_, at, p), b in eight.n_bytes.items() if at == level and p == part)
                for part in range(8)
            ]
            if boxes >= 32 and max(sent):
                n_bytes.append(max(sent) / math.sqrt(boxes / 8))
        stretch = {}
        boxes = len(tree.level(leaves))
        for own in (4, 16, 64, 256):
            n_parts = boxes // own
            if 2 <= n_parts <= 256:
                plan = partition_level(tree, near, leaves, n_parts)
                longest = sum(
                    max(len(plan.boxes_of(part, phase)) for part in range(n_parts))
                    for phase in range(plan.n_phases)
                )
                stretch[own] = longest / own
        return cls(len(tree.points) / boxes, flops, stretch, n_bytes, rate)

    def seconds(self, n: int, n_processes: int) -> float:
        """Return the model's seconds for n points."""
        boxes, height, active, total = n / self.leaf, 0, n_processes, 0.0
        while boxes >= 16:
            while active > 1 and boxes / active < 4:
                active = max(active // 4, 1)
            own = boxes / active
            stretch = 1.0
            if active > 1:
                known = sorted(self.stretch)
                stretch = float(np.interp(math.log(own), np.log(known), [self.stretch[m] for m in known]))
                most = self.n_bytes[min(height, len(self.n_bytes) - 1)] * math.sqrt(own)
                total += 40 * LATENCY + 2 * most / BANDWIDTH
            total += own * stretch * self.flops[min(height, len(self.flops) - 1)] / self.rate
            boxes, height = boxes / 4, height + 1
        return total
