"""What the processor allows a layer at most, which limit it is, and how long a layer should take.

A run takes at least max(FLOPs / peak, sum over cache levels of bytes / bandwidth, conversions / conversion rate)
[1, with a roof per level and one for conversions]. All of it is for one core. That is the *bound*. The *prediction*
adds what the layer's own class of routines attains on reference layers; see `attained`.

Where the bytes lie depends on what ran before. Warm, everything is in the smallest level that holds it all. In a
network, the weights have been pushed out to the level that holds the whole network, while activations have just been
written; what layers hand on in strips never leaves the near caches, and weights are read again for each (`strips`).
Cold, all but the workspace comes from memory. That is why binary16 can gain more than two: half the bytes may fit a
nearer cache.

What is too large for the last cache does not come from memory altogether: last caches protect old lines, and of W
bytes that are read in a circle, C of which fit, one that replaces lines at random keeps the share
h = exp(-(1 - h) W / C), the chance of a line to outlive the (1 - h) W misses of a round.

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
from pipeline.precision.plan import N_BYTES, Layer
from pipeline.precision.sampling import one_core
from pipeline.precision.strips import STRIP_BYTES, Strips

RooflineTerm = Literal["compute", "L1", "L2", "L3", "DRAM", "conversion"]
MemoryLevel = Literal["L1", "L2", "L3", "DRAM"]
Mode = Literal["warm", "cold", "network"]

VECTOR = 16  # outputs of a group that fill a vector; fewer leave a part of it idle
NARROW = 4  # channels of a first layer, whose loops over the taps are too short to run at the others' rate
SYSFS = Path("/sys/devices/system/cpu/cpu0/cache")
TYPICAL: dict[MemoryLevel, int] = {"L1": 32 << 10, "L2": 512 << 10, "L3": 8 << 20}


@dataclass(frozen=True)
class Attained:
    """What a class of routines attains; see `attained`.

    Attributes:
        gflops: Rate of its products, executed GFLOP/s.
        seconds_per_number: Cost of each number read or written between them.
        exposed: The part of the memory time that adds to the rest, in [0, 1]; of what comes from DRAM it is all.
    """

    gflops: float
    seconds_per_number: float
    exposed: float


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
        call_seconds: What a run takes that has next to nothing to do.
        wake_seconds: What it takes more behind another layer, whose weights have filled the near caches.
        far_wake_seconds: The same after routines that have filled all caches.
        pair_gflops: Multiply-adds of bfloat16 pairs, in GFLOP/s; 0 where the processor has none.
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
    pair_gflops: float = 0.0

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

    def level(self, n_bytes: float) -> MemoryLevel:
        """The nearest level that holds so many bytes."""
        for level, capacity in self.cache_bytes.items():
            if n_bytes <= capacity:
                return level
        return "DRAM"

    def shares(self, n_bytes: float) -> dict[MemoryLevel, float]:
        """Where so many bytes come from that are read in a circle: shares of them by level."""
        nearest = self.level(n_bytes)
        last: MemoryLevel = max(self.cache_bytes, key=lambda name: self.cache_bytes[name], default="DRAM")
        if nearest != "DRAM" or last == "DRAM":
            return {nearest: 1.0}
        kept = kept_share(n_bytes / self.cache_bytes[last])
        return {last: kept, "DRAM": 1.0 - kept}


def kept_share(ratio: float) -> float:
    """The least h with h = exp(-(1 - h) ratio), for a ratio above 1: see the module."""
    kept = 0.0
    for _ in range(200):
        kept = math.exp(-(1.0 - kept) * ratio)
    return kept


# One core of a current server processor with AVX-512; what counts are the quotients.
TYPICAL_ROOFS = Roofs(
    instruction_set="typical",
    gflops=200.0,
    conversions=60.0,
    bandwidth={"L1": 400.0, "L2": 180.0, "L3": 80.0, "DRAM": 30.0},
    cache_bytes={"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20},
    attained={
        f"{algorithm} {precision}": Attained(gflops, 1e-10, exposed)
        for algorithm, gflops in (("direct", 190.0), ("winograd2", 180.0), ("winograd4", 170.0))
        for precision, exposed in (("fp16", 0.3), ("fp32", 1.0))
    },
    call_seconds=3e-7,
)


@dataclass(frozen=True)
class Work:
    """What one run of a layer does.

    Attributes:
        flops: Executed, which Winograd's algorithm has fewer of than the layer's definition.
        weight_bytes: Weights as they are packed.
        activation_bytes: Inputs, addends and outputs, each once.
        conversions: Numbers converted between binary16 and binary32.
        workspace_bytes: Intermediate results, written and read again.
        numbers: Inputs, addends and outputs: how many there are.
        routine: The class of routines, a key of `Roofs.attained`.
        handed_bytes: Bytes of the activations that other layers hand to it, or it to them, in strips within a network.
        n_strips: How many strips there are, each of which reads the weights.
        strip_bytes: What has to stay near meanwhile: weights of all layers that take part, and what is handed on.
    """

    flops: float
    weight_bytes: float
    activation_bytes: float
    conversions: float
    workspace_bytes: float = 0.0
    numbers: float = 0.0
    routine: str = ""
    handed_bytes: float = 0.0
    n_strips: int = 1
    strip_bytes: float = 0.0

    @property
    def n_bytes(self) -> float:
        """Weights and activations."""
        return self.weight_bytes + self.activation_bytes


def work_of(layer: Layer, native: Any, batch: int, strips: Strips | None = None) -> Work:
    """Ask a packed layer what a batch makes it do, with other layers in strips or by itself."""
    n_in = math.prod(layer.input_shape) * N_BYTES[layer.input_dtype]
    n_out = math.prod(layer.output_shape) * N_BYTES[layer.output_dtype]
    n_added = layer.n_addend * N_BYTES[layer.addend_dtype]
    return Work(
        flops=native.flops(batch) if layer.has_weights else batch * layer.flops,
        weight_bytes=native.weight_bytes,
        activation_bytes=batch * (n_in + n_added + n_out),
        conversions=native.conversions(batch),
        workspace_bytes=native.workspace_bytes(batch),
        numbers=batch * (math.prod(layer.input_shape) + layer.n_addend + math.prod(layer.output_shape)),
        routine=routine_class(layer, batch),
        handed_bytes=0.0 if strips is None else batch * (n_in * strips.reads + n_out * strips.gives),
        n_strips=1 if strips is None else batch * strips.n,
        strip_bytes=0.0 if strips is None else strips.weight_bytes + STRIP_BYTES,
    )


def routine_class(layer: Layer, batch: int) -> str:
    """What routines of one speed have in common: algorithm, storage of weights, and shape of the product."""
    if layer.kind == "linear":
        return f"{layer.routine}, {'vector' if batch == 1 else 'matrix'}"
    if layer.geometry is not None and layer.routine.startswith("direct"):
        width = layer.output_shape[0] // layer.geometry.groups
        if layer.geometry.groups > 1 and width < VECTOR:
            return f"{layer.routine}, groups of {1 << (width.bit_length() - 1)}"
        if layer.input_shape[0] <= NARROW:
            return f"{layer.routine}, narrow"
    return layer.routine if layer.kind in ("conv2d", "add") else layer.kind


@dataclass(frozen=True)
class Bound:
    """The least seconds that a run can take, the term that says so, and the level that its bytes come from.

    Attributes:
        seconds: The bound.
        term: What it is.
        level: The level of memory where most of the memory time is spent.
        memory: The memory term alone.
        predicted: Seconds that the run should take.
        traffic: Bytes by level.
    """

    seconds: float
    term: RooflineTerm
    level: MemoryLevel
    memory: float = 0.0
    predicted: float = 0.0
    traffic: Mapping[MemoryLevel, float] = field(default_factory=dict)


def bound(work: Work, roofs: Roofs, *, mode: Mode = "warm", resident: float = 0.0) -> Bound:
    """Apply the roofline; of equal terms the first of compute, memory, conversion is named.

    Args:
        work: What the run does.
        roofs: The limits.
        mode: "warm", "cold" or "network"; see the module.
        resident: Bytes of the whole network, for "network".
    """
    traffic: dict[MemoryLevel, float] = {}
    everything = work.n_bytes + work.workspace_bytes
    cold: dict[MemoryLevel, float] = {"DRAM": 1.0}
    if mode == "warm":
        weights = activations = roofs.shares(everything)
    elif mode == "cold":
        weights = activations = cold
    else:
        weights = roofs.shares(max(resident, everything))
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
    own = roofs.attained.get(work.routine, Attained(roofs.peak(work.routine) / 1e9, 0.0, 0.0))
    memory = sum(seconds.values())
    far = seconds.get("DRAM", 0.0)
    exposed = own.exposed * (memory - far) + far
    attained = work.flops / (own.gflops * 1e9) + work.numbers * own.seconds_per_number + exposed
    far_share = weights.get("DRAM", 0.0)
    wake = far_share * roofs.far_wake_seconds + (1.0 - far_share) * roofs.wake_seconds
    predicted = (
        max(terms[term], attained) + work.n_strips * roofs.call_seconds + (0.0 if mode == "warm" else wake)
    )
    return Bound(terms[term], term, level, memory, predicted, traffic)


def cache_sizes(root: Path = SYSFS) -> dict[MemoryLevel, int]:
    """Read the first core's data caches from sysfs; where it says nothing, typical sizes."""
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
