"""Say in three short sentences why a layer gained what it gained from half precision.

The sentences speak of what ran, as the packed layer itself names it: a plan in half precision may compute a layer from
binary16 weights, from bfloat16 products, or from weights that it left at binary32.

A *bound* is what the roofs allow at best, a *prediction* what the model of `roofline.bound` expects: `Bound.predicted`
and no other figure, so that sentences, tick and table predict the same.
"""

import re
from dataclasses import dataclass

from pipeline.precision.roofline import Bound, MemoryLevel, Roofs
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
    def name(self) -> str:
        """What sentences call this side: "the plan" where it keeps FP32 weights, to tell it from FP32 everywhere."""
        return "the plan" if self.precision == "FP32" else self.precision

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
        Three short sentences: the verdict, the limit with its numbers on both sides, and the times measured and
        predicted. The first begins with the speedup after a comma, which the page leaves out beside its bar.
    """
    low, high = interval
    wins, loses = low > 1 + MARGIN, high < 1 - MARGIN
    return " ".join(
        (
            _verdict(single, half, roofs, wins, loses),
            _limit(single, half, roofs, wins, loses, flops or half.work.flops),
            _times(single, half, cold, loses),
        )
    )


def _verdict(single: TimedPrecision, half: TimedPrecision, roofs: Roofs, wins: bool, loses: bool) -> str:
    """What computed the layer: one wins *by* a routine, and makes no difference *with* one."""
    subject, kept = half.name, ""
    if half.precision == "FP32":
        if half.work.activation_bytes < single.work.activation_bytes:
            subject = "the plan with FP16 activations"
        kept = ", kept because narrower ones take longer or err more"
    verdict = "loses" if loses else "wins" if wins else "makes no clear difference"
    by, of = ("by", "with") if wins or loses else ("with", "of")
    ran = f" {by} {half.algorithm}" if half.algorithm else ""
    if half.algorithm and half.weights:
        ran += f" {of} {half.weights} weights{kept}"
    speedup = single.seconds / half.seconds
    return _sentence(f"{subject} {verdict}, {speedup:.2f}x{ran}{_strips(half, roofs)}")


def _strips(half: TimedPrecision, roofs: Roofs) -> str:
    """Say which bytes stay in near caches because layers hand them on in strips."""
    handed = half.work.handed_bytes
    if not handed:
        return ""
    return f", handing on {_bytes(handed)} in strips that stay in {roofs.level(min(handed, STRIP_BYTES))}"


def _limit(
    single: TimedPrecision, half: TimedPrecision, roofs: Roofs, wins: bool, loses: bool, flops: float
) -> str:
    """Name what bounds the half-precision side, and what float32 has instead."""
    term, term_single = half.bound.term, single.bound.term
    n_bytes, n_bytes_single = _bytes(half.work.n_bytes), _bytes(single.work.n_bytes)
    conversions = f"{_count(half.work.conversions)} conversions"
    least, least_single = _seconds(half.bound.seconds), _seconds(single.bound.seconds)
    if term == "conversion":
        return (
            f"The layer is conversion-bound: {conversions} at {roofs.conversions:.0f} G/s take {least}; FP32 converts "
            f"nothing, is {term_single}-bound and takes {least_single} at least."
        )
    if term != "compute":
        levels, levels_single = _levels(half), _levels(single)
        rates = " and ".join(f"{roofs.bandwidth[level]:.0f}" for level in levels)
        besides = " and intermediate results" if half.work.workspace_bytes else ""
        elsewhere = f" from {' and '.join(levels_single)}" if levels_single != levels else ""
        is_also = f"is {term_single}-bound and " if term_single in ("compute", "conversion") else ""
        return (
            f"The layer is {term}-bound: {_moved(half)}{besides} from {' and '.join(levels)} at {rates} GB/s take "
            f"{least}; FP32 {is_also}needs {least_single} for {n_bytes_single}{elsewhere}."
        )
    peak, peak_single = (roofs.peak(side.work.routine) / 1e9 for side in (half, single))
    takes = f"{_executed(half, flops)} at {peak:.0f} GFLOP/s take {least}"
    if term_single != "compute":
        return (
            f"FP32 is {term_single}-bound by {n_bytes_single}; {half.name}'s {n_bytes} take less than the arithmetic, "
            f"where {takes}."
        )
    if peak > peak_single:
        then = f" as products of {half.precision} pairs; FP32's run at {peak_single:.0f} GFLOP/s"
    elif single.bound.seconds > (1 + MARGIN) * half.bound.seconds:
        then = f"; FP32's routine executes {_count(single.work.flops)} FLOPs"
    elif half.work.n_bytes == single.work.n_bytes:
        then = f", and both move the same {n_bytes}"
    elif wins:
        then = f"; the gain comes from moving {n_bytes} instead of {n_bytes_single}"
    elif loses and half.work.conversions:
        then = f"; moving fewer bytes saves no time, and {conversions} are added"
    else:
        then = f", so moving {n_bytes} instead of {n_bytes_single} saves no time"
    return f"Both sides are compute-bound: {takes}{then}."


def _executed(side: TimedPrecision, flops: float) -> str:
    """FLOPs that run, beside those of the layer's definition where they are others."""
    executed = side.work.flops
    if executed < 0.95 * flops:
        return f"{_count(executed)} FLOPs ({_count(flops)} by definition)"
    if executed > 1.05 * flops:
        before = "splitting" if " split" in side.work.routine else "padding"
        return f"{_count(executed)} FLOPs ({_count(flops)} before {before})"
    return f"{_count(executed)} FLOPs"


def _moved(side: TimedPrecision) -> str:
    """Bytes, called weights where they are hardly anything else."""
    weights = side.work.weight_bytes > 0.9 * side.work.n_bytes
    return (
        f"{_bytes(side.work.n_bytes)} of {side.precision} weights" if weights else _bytes(side.work.n_bytes)
    )


def _levels(side: TimedPrecision) -> list[MemoryLevel]:
    """Levels of memory from which more than a percent of the bytes come, the largest part first."""
    traffic = side.bound.traffic
    least = 0.01 * sum(traffic.values())
    return sorted((level for level in traffic if traffic[level] > least), key=lambda level: -traffic[level])


def _times(single: TimedPrecision, half: TimedPrecision, cold: bool, loses: bool) -> str:
    """Tell the time that was measured and the one predicted, and why the time is far from its bound."""
    compared = (
        f"(predicted: {_seconds(half.bound.predicted)}, speedup "
        f"{single.bound.predicted / half.bound.predicted:.2f}x)"
    )
    faster = [side for side in (single, half) if side.beats_bound]
    if faster:
        names = ("FP32" if side is single else half.name for side in faster)
        times = " and ".join(
            f"{name}'s {_seconds(side.seconds)}" for name, side in zip(names, faster, strict=True)
        )
        bounds = " and ".join(_seconds(side.bound.seconds) for side in faster)
        are, bound = ("is", "the bound") if len(faster) == 1 else ("are", "the bounds")
        return _sentence(f"{times} {are} below {bound} of {bounds}, so a roof is too low here {compared}")
    excess, excess_single = (side.seconds - side.bound.seconds for side in (half, single))
    if loses and single.bound.seconds >= (1 + MARGIN) * half.bound.seconds and excess > 0:
        # The roofs allow a gain, so costs that they leave out decide; a run may come out a little below its bound.
        than = f"{_seconds(excess_single)} in FP32" if excess_single > 0 else "nothing in FP32"
        return (
            f"Widening, storing and waits, which the bounds leave out, take {_seconds(excess)} in {half.name} and "
            f"{than} {compared}."
        )
    took = f"{half.name} took {_seconds(half.seconds)}"
    factor = half.seconds / half.bound.seconds
    if factor < FAR_FROM_BOUND:
        return _sentence(f"{took} {compared}")
    what = (
        "waiting for the first cache lines dominates"
        if cold
        else "short loops, scattered reads or calls dominate"
    )
    return _sentence(f"{took}, {factor:.1f} times the bound: {what} {compared}")


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


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
