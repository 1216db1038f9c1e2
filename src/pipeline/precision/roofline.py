"""The least time that the processor allows a layer, which limit sets it, and how long the layer should take.

A run takes at least max(FLOPs / peak, sum over cache levels of bytes / bandwidth, conversions / conversion rate)
[1, with a roof per level and one for conversions]. All of it is for one core. That is the *bound*. The *prediction*
adds what the layer's own class of routines attains on reference layers; see `attained`.

Where the bytes lie depends on what ran before. Warm, everything is in the smallest level that holds it all. In a
network, the weights have been pushed out to the level that holds the whole network, while activations have just been
written; what layers hand on in strips never leaves the near caches, and weights are read again for each strip
(`strips`). Cold, all but the workspace comes from memory. Binary16 can gain more than a factor of two, because half the
bytes may fit a nearer cache.

Between two runs of a network other programs may use the last cache; it keeps less, the longer a run takes.

Data that is too large for the last cache does not all come from memory, because last caches protect old lines. If W
bytes are read cyclically and C of them fit, a cache that replaces lines at random keeps the share h = exp(-(1 - h) W /
C), the probability that a line survives the (1 - h) W misses of a round.

References:
    [1] Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for multicore architectures",
        Communications of the ACM 2009.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.precision import _native
from pipeline.precision.sampling import one_core
from pipeline.precision.strips import STRIP_BYTES
from pipeline.precision.work import Work

RooflineTerm = Literal["compute", "L1", "L2", "L3", "DRAM", "conversion"]
MemoryLevel = Literal["L1", "L2", "L3", "DRAM"]
Mode = Literal["warm", "cold", "network"]

PAGE = 4096  # bytes of a small page
LARGE_PAGES = 256 << 10  # weights of at least so many bytes lie in large pages; native/buffer.hpp
SYSFS = Path("/sys/devices/system/cpu/cpu0/cache")
TYPICAL: dict[MemoryLevel, int] = {"L1": 32 << 10, "L2": 512 << 10, "L3": 8 << 20}


@dataclass(frozen=True)
class Attained:
    """What a class of routines attains; see `attained`.

    Attributes:
        gflops: Rate of its products in executed GFLOP/s; vectors that are not full count as full.
        seconds_per_number: Cost of each number that is loaded between products.
        exposed: The part of the time of caches that adds to the rest, in [0, 1]; the time of DRAM always adds in full.
        seconds_per_result: Cost of each number that is written.
    """

    gflops: float
    seconds_per_number: float
    exposed: float
    seconds_per_result: float = 0.0


@dataclass(frozen=True)
class Roofs:
    """The limits of one core.

    Attributes:
        instruction_set: The instruction set whose routines were measured.
        gflops: Binary32 multiply-adds, 2 FLOPs each, in GFLOP/s.
        conversions: Binary16 numbers loaded and widened, in 1e9/s.
        bandwidth: Reading, in GB/s, by level "L1", "L2", "L3" (if there is one), "DRAM".
        cache_bytes: Capacity of each cache level.
        attained: What each class of routines attains; see `Work.routine`.
        call_seconds: Seconds of a run with almost no work.
        wake_seconds: Additional seconds of a run after another layer, whose weights have filled the near caches.
        far_wake_seconds: The same after routines that have filled all caches.
        close_wake_seconds: The same in a network that is so small that the near caches hold all of it.
        page_seconds: Additional seconds for each page of weights, if other layers have filled the near caches and
            weights are too few for large pages.
        far_page_seconds: The same after routines that have filled all caches.
        kept_bytes: Bytes that the last cache keeps of cyclically read data, perhaps fewer than it holds; 0 for all.
        kept_seconds: Seconds until other programs have taken all but 1 / e of a shared last cache; 0 for never.
        pair_gflops: Multiply-adds of bfloat16 pairs, in GFLOP/s; 0 where the processor has none.
        functions: Seconds that each function takes per number, by name.
    """

    instruction_set: str
    gflops: float
    conversions: float
    bandwidth: Mapping[MemoryLevel, float]
    cache_bytes: Mapping[MemoryLevel, int]
    attained: Mapping[str, Attained] = field(default_factory=dict)
    call_seconds: float = 0.0
    wake_seconds: float = 0.0
    far_wake_seconds: float = 0.0
    close_wake_seconds: float = 0.0
    page_seconds: float = 0.0
    far_page_seconds: float = 0.0
    kept_bytes: float = 0.0
    kept_seconds: float = 0.0
    pair_gflops: float = 0.0
    functions: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Roofs":
        attained = {name: Attained(**entry) for name, entry in document.get("attained", {}).items()}
        return cls(**{**document, "attained": attained})

    def peak(self, routine: str) -> float:
        """FLOP/s of the multiply-adds that a class of routines is made of."""
        in_pairs = " bf16" in routine or " split" in routine
        return (self.pair_gflops if in_pairs and self.pair_gflops else self.gflops) * 1e9

    def attained_by(self, routine: str) -> Attained:
        """Return what a class of routines, or the nearest measured class above it, attains; its peak if there is
        none."""
        name = routine
        while name:
            if name in self.attained:
                return self.attained[name]
            name = name.rpartition(", ")[0]
        return Attained(self.peak(routine) / 1e9, 0.0, 0.0)

    def level(self, n_bytes: float) -> MemoryLevel:
        """The nearest level that holds so many bytes."""
        for level, capacity in self.cache_bytes.items():
            if n_bytes <= capacity:
                return level
        return "DRAM"

    def shares(self, n_bytes: float, period: float = 0.0) -> dict[MemoryLevel, float]:
        """Return the shares of cyclically read bytes that come from each level.

        Args:
            n_bytes: Bytes that each round reads.
            period: Seconds from one round to the next, in which others use the last cache too.
        """
        nearest = self.level(n_bytes)
        last: MemoryLevel = max(self.cache_bytes, key=lambda name: self.cache_bytes[name], default="DRAM")
        if nearest not in ("DRAM", last) or last == "DRAM":
            return {nearest: 1.0}
        ratio = n_bytes / (self.kept_bytes or self.cache_bytes[last])
        kept = kept_share(ratio) if ratio > 1 else 1.0
        if self.kept_seconds:
            kept *= math.exp(-period / self.kept_seconds)
        return {last: kept, "DRAM": 1.0 - kept} if kept < 1.0 else {last: 1.0}


def kept_bytes(n_bytes: float, share: float) -> float:
    """Invert `kept_share`: return the size of a cache that keeps this share of so many cyclically read bytes."""
    share = min(max(share, 0.02), 0.98)  # shares beyond these are noise, and 0 and 1 determine no size
    return n_bytes * (1.0 - share) / -math.log(share)


def kept_share(ratio: float) -> float:
    """The least h with h = exp(-(1 - h) ratio), for a ratio above 1: see the module."""
    kept = 0.0
    for _ in range(200):
        kept = math.exp(-(1.0 - kept) * ratio)
    return kept


# One core of a current server processor with AVX-512; only the ratios matter.
TYPICAL_ROOFS = Roofs(
    instruction_set="typical",
    gflops=200.0,
    conversions=60.0,
    bandwidth={"L1": 400.0, "L2": 180.0, "L3": 80.0, "DRAM": 30.0},
    cache_bytes={"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20},
    attained={
        f"{algorithm} {precision}": Attained(gflops, 1e-10, exposed, 1e-10)
        for algorithm, gflops in (("direct", 190.0), ("winograd2", 180.0), ("winograd4", 170.0))
        for precision, exposed in (("fp16", 0.3), ("fp32", 1.0))
    },
    call_seconds=3e-7,
)


@dataclass(frozen=True)
class Bound:
    """The least seconds that a run can take, the term that sets them, and the level that its bytes come from.

    Attributes:
        seconds: The bound.
        term: The term that sets the bound: "compute", "conversion" or a level of memory.
        level: The level of memory where most of the memory time is spent.
        memory: The memory term alone.
        streamed: The memory term without passes over the workspace in caches, which the cost of each number contains.
        predicted: Predicted seconds of the run.
        traffic: Bytes by level.
    """

    seconds: float
    term: RooflineTerm
    level: MemoryLevel
    memory: float = 0.0
    streamed: float = 0.0
    predicted: float = 0.0
    traffic: Mapping[MemoryLevel, float] = field(default_factory=dict)


def bound(
    work: Work, roofs: Roofs, *, mode: Mode = "warm", resident: float = 0.0, period: float = 0.0
) -> Bound:
    """Apply the roofline; among equal terms the first of compute, memory, conversion is named.

    Args:
        work: What the run does.
        roofs: The limits.
        mode: "warm", "cold" or "network"; see the module.
        resident: Bytes of the whole network, for "network".
        period: Seconds that one run of the whole network takes, for "network".
    """
    traffic: dict[MemoryLevel, float] = {}
    everything = work.n_bytes + work.workspace_bytes
    cold: dict[MemoryLevel, float] = {"DRAM": 1.0}
    if mode == "warm":
        weights = activations = roofs.shares(everything)
    elif mode == "cold":
        weights = activations = cold
    else:
        weights = roofs.shares(max(resident, everything), period)
        activations = roofs.shares(work.activation_bytes - work.handed_bytes + work.workspace_bytes)
    workspace = roofs.shares(work.workspace_bytes + work.activation_bytes - work.handed_bytes)
    for shares, n_bytes in (
        (weights, work.weight_bytes),
        (roofs.shares(work.strip_bytes), (work.n_strips - 1) * work.weight_bytes),
        (activations, work.activation_bytes - work.handed_bytes),
        (roofs.shares(min(work.handed_bytes, STRIP_BYTES)), work.handed_bytes),
        (workspace, 2 * work.workspace_bytes),
    ):
        for level, share in shares.items():
            if n_bytes * share:
                traffic[level] = traffic.get(level, 0.0) + n_bytes * share
    seconds = {level: n_bytes / (roofs.bandwidth[level] * 1e9) for level, n_bytes in traffic.items()}
    level = max(seconds, key=lambda name: seconds[name], default="L1")
    terms: dict[RooflineTerm, float] = {
        "compute": work.flops / roofs.peak(work.routine),
        level: sum(seconds.values()),
        "conversion": work.conversions / (roofs.conversions * 1e9),
    }
    term = max(terms, key=lambda name: terms[name])
    own = roofs.attained_by(work.routine)
    memory = sum(seconds.values())
    far = seconds.get("DRAM", 0.0)
    passes = sum(
        2 * work.workspace_bytes * share / (roofs.bandwidth[level] * 1e9)
        for level, share in workspace.items()
        if level != "DRAM"
    )
    streamed = memory - passes
    exposed = own.exposed * (streamed - far) + far
    attained = (
        (work.slots or work.flops) / (own.gflops * 1e9)
        + work.numbers * own.seconds_per_number
        + work.results * (own.seconds_per_result + roofs.functions.get(work.function, 0.0))
        + exposed
    )
    wake = _wake(work, roofs, weights, max(resident, everything))
    predicted = (
        max(terms[term], attained) + work.n_strips * roofs.call_seconds + (0.0 if mode == "warm" else wake)
    )
    return Bound(terms[term], term, level, memory, streamed, predicted, traffic)


def _wake(work: Work, roofs: Roofs, weights: Mapping[MemoryLevel, float], resident: float) -> float:
    """Return the additional seconds of a run after other layers: it reads its code again, and its weights' page
    tables."""
    second = list(roofs.cache_bytes.values())[1]
    near = kept_share(resident / second) if resident > second else 1.0
    far = weights.get("DRAM", 0.0)
    if far == 1.0:
        near = 0.0
    pages = work.weight_bytes / PAGE if work.weight_bytes < LARGE_PAGES else 0.0
    elsewhere = far * (roofs.far_wake_seconds + pages * roofs.far_page_seconds) + (1.0 - far) * (
        roofs.wake_seconds + pages * roofs.page_seconds
    )
    return near * roofs.close_wake_seconds + (1.0 - near) * elsewhere


def cache_sizes(root: Path = SYSFS) -> dict[MemoryLevel, int]:
    """Read the sizes of the first core's data caches from sysfs; return typical sizes where it has none."""
    sizes: dict[MemoryLevel, int] = {}
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
    levels: list[MemoryLevel] = [*caches, "DRAM"]
    memory = min(max(4 * max(caches.values()), 128 << 20), 1 << 30)
    share = seconds / (len(levels) + 3)
    with one_core():
        rates = _native.read_rates(name, [*(size // 2 for size in caches.values()), memory], share)
        gflops = _native.fma_rate(name, share) / 1e9
        pair_gflops = _native.pair_rate(name, share) / 1e9
        conversions = _native.conversion_rate(name, share) / 1e9
    bandwidth = {level: rate / 1e9 for level, rate in zip(levels, rates, strict=True)}
    return Roofs(name, gflops, conversions, bandwidth, caches, pair_gflops=pair_gflops)
