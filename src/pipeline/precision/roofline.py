"""What the processor allows a layer at most, and which limit it is.

A run takes at least max(FLOPs / peak, bytes / bandwidth of the level they lie in, conversions / conversion rate)
[1, with a roof per cache level and one for conversions]. All of it is for one core. A layer that is run again and
again finds its numbers, warm, in the smallest level that holds them all. That level is why binary16 can gain more
than two: half the bytes may fit a nearer cache.

References:
    [1] Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for multicore architectures",
        Communications of the ACM 2009.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.precision import _native
from pipeline.precision.sampling import one_core

Term = Literal["compute", "L1", "L2", "L3", "DRAM", "conversion"]
Level = Literal["L1", "L2", "L3", "DRAM"]

SYSFS = Path("/sys/devices/system/cpu/cpu0/cache")
TYPICAL: dict[Level, int] = {"L1": 32 << 10, "L2": 512 << 10, "L3": 8 << 20}


@dataclass(frozen=True)
class Roofs:
    """The limits of one core.

    Attributes:
        instruction_set: Whose routines were measured.
        gflops: Binary32 multiply-adds, 2 FLOPs each, in GFLOP/s.
        conversions: Binary16 numbers loaded and widened, in 1e9/s.
        bandwidth: Reading, in GB/s, by level "L1", "L2", "L3" (if there is one), "DRAM".
        cache_bytes: Capacity of each cache level.
    """

    instruction_set: str
    gflops: float
    conversions: float
    bandwidth: Mapping[Level, float]
    cache_bytes: Mapping[Level, int]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Roofs":
        return cls(**document)

    def level(self, n_bytes: float) -> Level:
        """The nearest level that holds so many bytes."""
        for level, capacity in self.cache_bytes.items():
            if n_bytes <= capacity:
                return level
        return "DRAM"


@dataclass(frozen=True)
class Work:
    """What one run of a layer does: FLOPs, bytes moved (each number once) and conversions."""

    flops: float
    n_bytes: float
    conversions: float


@dataclass(frozen=True)
class Bound:
    """The least seconds that a run can take, the term that says so, and where its bytes lie."""

    seconds: float
    term: Term
    level: Level


def bound(work: Work, roofs: Roofs, *, cold: bool = False) -> Bound:
    """Apply the roofline; of equal terms the first of compute, memory, conversion is named.

    Cold data come from memory however few they are.
    """
    level = "DRAM" if cold else roofs.level(work.n_bytes)
    terms: dict[Term, float] = {
        "compute": work.flops / (roofs.gflops * 1e9),
        level: work.n_bytes / (roofs.bandwidth[level] * 1e9),
        "conversion": work.conversions / (roofs.conversions * 1e9),
    }
    term = max(terms, key=lambda name: terms[name])
    return Bound(terms[term], term, level)


def cache_sizes(root: Path = SYSFS) -> dict[Level, int]:
    """Read the first core's data caches from sysfs; where it says nothing, typical sizes."""
    sizes: dict[Level, int] = {}
    for index in sorted(root.glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind in ("Data", "Unified") and level in ("1", "2", "3") and size.endswith("K"):
            sizes[f"L{level}"] = int(size[:-1]) << 10  # type: ignore[index]
    return sizes if {"L1", "L2"} <= sizes.keys() else dict(TYPICAL)


def measure_roofs(instruction_set: str | None = None, *, seconds: float = 1.5) -> Roofs:
    """Measure this core's limits in about `seconds`, each as the best of many short runs.

    Bandwidth is measured by reading half of each cache, with one stream, one stream with prefetch and four streams in
    turn, and for memory by reading a buffer of at least four times the last cache.

    Args:
        instruction_set: One of `instruction_sets()`; None for the best that the processor has.
        seconds: Shared equally between the limits.
    """
    name = instruction_set or _native.instruction_sets()[0]
    caches = cache_sizes()
    levels: list[Level] = [*caches, "DRAM"]
    memory = min(max(4 * max(caches.values()), 128 << 20), 1 << 30)
    share = seconds / (len(levels) + 2)
    with one_core():
        rates = _native.read_rates(name, [*(size // 2 for size in caches.values()), memory], share)
        gflops = _native.fma_rate(name, share) / 1e9
        conversions = _native.conversion_rate(name, share) / 1e9
    bandwidth = {level: rate / 1e9 for level, rate in zip(levels, rates, strict=True)}
    return Roofs(name, gflops, conversions, bandwidth, caches)
