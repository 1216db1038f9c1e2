"""Say in one sentence why a layer gained what it gained from half precision.

The sentence speaks of what ran, as the packed layer itself names it: a plan in half precision may compute a layer from
binary16 weights, from bfloat16 products, or from weights that it left at binary32.

A *bound* is what the roofs allow at best, a *prediction* what the model of `roofline.bound` expects: `Bound.predicted`
and no other figure, so that sentence, tick and table predict the same.
"""

import re
from dataclasses import dataclass

from pipeline.precision.roofline import Bound, Roofs
from pipeline.precision.strips import STRIP_BYTES
from pipeline.precision.work import Work

MARGIN = 0.02  # a speedup closer to 1 than this counts as no difference
FAR_FROM_BOUND = 2.0  # a run this many times slower than its bound is limited by something other than a roof
#: A run in less than this part of its bound shows that the bound is wrong; a few percent are noise of the roofs.
BELOW_BOUND = 1 / 1.05


@dataclass(frozen=True)
class TimedPrecision:
    """One precision of a layer: what it does, what the roofs allow, what it took, and the routine that ran."""

    work: Work
    bound: Bound
    seconds: float
    routine: str = ""

    @property
    def algorithm(self) -> str:
        """The routine without its panels and its instruction set: "direct convolution"."""
        name = re.sub(r"( \d+ outputs wide)?(, \w+ weights)?, \w+$", "", self.routine)
        return f"{name} product" if name.startswith("matrix-") else name

    @property
    def weights(self) -> str:
        """How the weights lie in memory, "FP16", "split FP16", "BF16" or "FP32"; nothing for a layer that has none."""
        found = re.search(r"(fp16|bf16|split|fp32) weights", self.routine)
        if found is None:
            return ""
        return "split FP16" if found[1] == "split" else found[1].upper()

    @property
    def precision(self) -> str:
        """What the half-precision side is called: by its weights, or else by its activations."""
        return self.weights or "FP16"

    @property
    def beats_bound(self) -> bool:
        """Whether it ran faster than the roofs allow."""
        return self.seconds < BELOW_BOUND * self.bound.seconds


def reason(
    single: TimedPrecision,
    half: TimedPrecision,
    interval: tuple[float, float],
    roofs: Roofs,
    *,
    cold: bool = False,
    flops: float | None = None,
) -> str:
    """Explain a speedup.

    Args:
        single: The float32 side.
        half: The half-precision side.
        interval: Interval of the speedup; one that comes within 2 % of 1 is called no difference.
        roofs: The limits that both sides were bounded with.
        cold: Whether every run found the caches empty.
        flops: FLOPs of the layer's definition, where routines may execute fewer.

    Returns:
        One sentence: the verdict, the limit with its numbers, and what float32 has instead.
    """
    speedup = single.seconds / half.seconds
    low, high = interval
    wins = low > 1 + MARGIN
    loses = high < 1 - MARGIN
    subject, kept = half.precision, ""
    if subject == "FP32":
        rounded = half.work.activation_bytes < single.work.activation_bytes
        subject = "FP32 with FP16 activations" if rounded else "FP32"
        only = "; only its activations are FP16" if rounded else ""
        kept = f"; the plan keeps this layer's weights at FP32, since narrower ones take longer or err more{only}"
    verdict = f"{subject} loses" if loses else f"{subject} wins" if wins else "no clear difference"
    limit = _limit(single, half, roofs, wins, flops or half.work.flops)
    beyond = _beyond(single, half) if loses else ""
    ran = _ran(half, decided=wins or loses)
    near, distance = _strips(half, roofs), _distance(single, half, cold)
    return f"{verdict}, {speedup:.2f}x{ran}: {limit}{near}{beyond}{kept}{distance}."


def _ran(half: TimedPrecision, *, decided: bool) -> str:
    """What computed the layer: one wins *by* a routine, and there is no difference *with* one."""
    if not half.algorithm:
        return ""
    by, of = ("by", "with") if decided else ("with", "of")
    return f" {by} {half.algorithm}{f' {of} {half.weights} weights' if half.weights else ''}"


def _limit(single: TimedPrecision, half: TimedPrecision, roofs: Roofs, wins: bool, flops: float) -> str:
    moved, moved_single = _moved(half), _bytes(single.work.n_bytes)
    converted = _count(half.work.conversions)
    peak, peak_single = (roofs.peak(side.work.routine) / 1e9 for side in (half, single))
    needs = f"{_executed(half, flops)} at {peak:.0f} GFLOP/s take {_seconds(half.bound.seconds)}"
    term, term_single = half.bound.term, single.bound.term
    if term == "compute" and term_single != "compute":
        return (
            f"FP32 is {term_single}-bound by {moved_single}{_from(single, roofs)}; {half.precision}'s {moved} take "
            f"less than the arithmetic, where {needs}"
        )
    if term == "compute" and peak > peak_single:
        return (
            f"compute-bound on both sides, where {needs} as products of {half.precision} pairs, and FP32's run at "
            f"{peak_single:.0f} GFLOP/s"
        )
    if term == "compute" and single.bound.seconds > (1 + MARGIN) * half.bound.seconds:
        return (
            f"compute-bound on both sides, where {needs}, and FP32's routine executes "
            f"{_count(single.work.flops)} FLOPs"
        )
    if term == "compute" and half.work.n_bytes == single.work.n_bytes:
        return f"compute-bound on both sides, where {needs}, and both move the same {moved}"
    if term == "compute" and wins:
        return (
            f"compute-bound on both sides, where {needs} at either precision; what is gained comes from "
            f"moving {moved} instead of {moved_single} where that does not overlap with the arithmetic"
        )
    if term == "compute":
        return (
            f"compute-bound on both sides, where {needs}: moving {moved} instead of {moved_single} saves no time, and "
            f"{converted} conversions come on top"
        )
    if term == "conversion":
        return (
            f"conversion-bound, as {converted} conversions at {roofs.conversions:.0f} G/s take "
            f"{_seconds(half.bound.seconds)}; FP32 converts nothing: it is {term_single}-bound and takes "
            f"{_seconds(single.bound.seconds)} at least"
        )
    rates, rates_single = _from(half, roofs), _from(single, roofs)
    elsewhere = rates_single if rates_single != rates else ""
    return (
        f"{term}-bound, {moved}{rates} take {_seconds(half.bound.seconds)}; FP32 moves "
        f"{moved_single}{elsewhere} and needs {_seconds(single.bound.seconds)} at least"
    )


def _strips(half: TimedPrecision, roofs: Roofs) -> str:
    """Say which bytes stay in near caches because layers hand them on in strips."""
    work = half.work
    if not work.handed_bytes:
        return ""
    near = roofs.level(min(work.handed_bytes, STRIP_BYTES))
    return f"; {_bytes(work.handed_bytes)} of this is handed on between layers in strips that stay in {near}"


def _executed(side: TimedPrecision, flops: float) -> str:
    """FLOPs that run, beside those of the layer's definition where they are others."""
    executed = side.work.flops
    if executed < 0.95 * flops:
        return f"{_count(executed)} of the definition's {_count(flops)} FLOPs"
    if executed > 1.05 * flops:
        split = " split" in side.work.routine
        why = "split numbers take several products" if split else "padding adds the rest"
        return f"{_count(executed)} FLOPs ({_count(flops)} by the layer's definition, {why})"
    return f"{_count(executed)} FLOPs"


def _beyond(single: TimedPrecision, half: TimedPrecision) -> str:
    """Say why a layer loses although the roofs allow a gain: through costs that the roofs leave out."""
    if single.bound.seconds < (1 + MARGIN) * half.bound.seconds:
        return ""
    excess, excess_single = (side.seconds - side.bound.seconds for side in (half, single))
    if excess <= 0:
        return ""
    return (
        f"; so the roofs allow a gain, but instructions that widen, gather and store, and waits, which they leave "
        f"out, take {_seconds(excess)} in {half.precision}{_than(excess_single)}"
    )


def _than(seconds: float) -> str:
    """The other side of a comparison; a run may come out a little below its measured bound."""
    return f" and {_seconds(seconds)} in FP32" if seconds > 0 else " and nothing in FP32"


def _moved(side: TimedPrecision) -> str:
    """Bytes, called weights where they are hardly anything else."""
    weights = side.work.weight_bytes > 0.9 * side.work.n_bytes
    return (
        f"{_bytes(side.work.n_bytes)} of {side.precision} weights" if weights else _bytes(side.work.n_bytes)
    )


def _distance(single: TimedPrecision, half: TimedPrecision, cold: bool) -> str:
    """How far the time measured is from the one predicted, and what its distance from the bound says."""
    compared = (
        f" ({half.precision} measured {_seconds(half.seconds)}; predicted by what such routines attain: "
        f"{_seconds(half.bound.predicted)}, speedup {single.bound.predicted / half.bound.predicted:.2f}x)"
    )
    faster = [side for side in (single, half) if side.beats_bound]
    if faster:
        named = " and ".join(
            f"{'FP32' if side is single else half.precision}'s {_seconds(side.seconds)}" for side in faster
        )
        are, bound = ("is", "its bound") if len(faster) == 1 else ("are", "their bounds")
        return (
            f"{compared}; {named} {are} less than {bound} of "
            f"{' and '.join(_seconds(side.bound.seconds) for side in faster)}, so a roof was measured too low, as "
            "beside other programs, or does not hold for this routine"
        )
    factor = half.seconds / half.bound.seconds
    if factor < FAR_FROM_BOUND:
        return compared
    what = (
        "waiting for the first cache lines weighs"
        if cold
        else "short loops, scattered reads or the call itself weigh"
    )
    return f"{compared}; the time measured is {factor:.1f} times the bound, so {what} more than any roof"


def _from(side: TimedPrecision, roofs: Roofs) -> str:
    """Where bytes come from, at the rates of the roofs; intermediate results are written and read besides."""
    least = 0.01 * sum(side.bound.traffic.values())
    parts = sorted(
        (part for part in side.bound.traffic.items() if part[1] > least), key=lambda part: -part[1]
    )
    if len(parts) == 1 and not side.work.workspace_bytes:
        ((level, _),) = parts
        return f" from {level} at {roofs.bandwidth[level]:.0f} GB/s"
    if not parts:
        return ""
    told = " and ".join(
        f"{_bytes(n_bytes)} from {level} at {roofs.bandwidth[level]:.0f} GB/s" for level, n_bytes in parts
    )
    between = ", intermediate results included" if side.work.workspace_bytes else ""
    return f" ({told}{between})"


def _seconds(value: float) -> str:
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def _bytes(value: float) -> str:
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def _count(value: float) -> str:
    for factor, unit in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f}"
