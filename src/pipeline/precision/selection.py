"""Choose each layer's routine: the fastest whose error fits, verified on samples, failing closed to float32.

Every layer starts with its general float32 routine. Moves to faster ones are made in the order of squared error added
per second saved, as rounding errors of different layers add up like independent ones. How far along that order the
whole network stays within its budget is found by bisection, on samples that were not trained on.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from pipeline.precision.error import relative_error
from pipeline.precision.plan import INPUT, Layer
from pipeline.precision.reference import apply
from pipeline.precision.roofline import TYPICAL_ROOFS, bound
from pipeline.precision.routines import build, candidates, run_layer, twin
from pipeline.precision.verification import Budget, Verification
from pipeline.precision.work import Work, work_of

LEAST_GAIN = 0.03
Allowed = Annotated[float, Ge(0)]


@dataclass(frozen=True)
class Candidate:
    """One routine for one layer: the lower quartile of its seconds for the batch, and the relative error it adds.

    The error is that of the layer's result for exact inputs, from rounded weights, products and results together.
    """

    routine: str
    seconds: float
    error: float


@dataclass(frozen=True)
class RoutineTrial:
    """The error that one routine of a layer adds for exact inputs, and its work for one sample."""

    error: float
    work: Work


def trials(
    layers: Sequence[Layer],
    stored: Mapping[str, Tensor],
    complete: Mapping[str, Tensor],
    x: Tensor,
    instruction_set: str,
) -> dict[str, dict[str, RoutineTrial]]:
    """Try each candidate of each layer, by layer and routine.

    The error includes that of rounding the weights if `complete` has them unrounded.

    Args:
        layers: The plan.
        stored: Weights as they are stored.
        complete: Weights before rounding.
        x: Samples, shape (n, channels, rows, columns).
        instruction_set: The instruction set of the routines.
    """
    values = {INPUT: x.double()}
    tried: dict[str, dict[str, RoutineTrial]] = {}
    for layer in layers:
        addend = None if layer.addend is None else values[layer.addend]
        wanted = values[layer.name] = apply(layer, complete, values[layer.source], addend)
        of_layer = tried[layer.name] = {}
        for routine in candidates(layer, instruction_set):
            planned = replace(layer, routine=routine)
            native = build(planned, stored, instruction_set)
            found = run_layer(layer, native, values[layer.source], addend)
            of_layer[routine] = RoutineTrial(relative_error(found, wanted), work_of(planned, native, 1))
    return tried


def least_errors(
    layers: Sequence[Layer], tried: Mapping[str, Mapping[str, RoutineTrial]]
) -> dict[str, float]:
    """Return the error that each layer with weights adds on its best routine; infinite if all errors are NaN."""
    return {
        layer.name: min(
            (trial.error for trial in tried[layer.name].values() if not math.isnan(trial.error)),
            default=math.inf,
        )
        for layer in layers
        if layer.has_weights
    }


def typical_routines(
    layers: Sequence[Layer],
    tried: Mapping[str, Mapping[str, RoutineTrial]],
    budget: Budget,
    instruction_set: str,
) -> tuple[Layer, ...]:
    """Give each layer the routine that should be the fastest for one sample among those whose error fits.

    The roofs of a typical processor decide, not measured times, so that the choice is reproducible. A layer without a
    fitting half-precision routine gets its general float32 one.
    """
    chosen = []
    for layer in layers:
        of_layer = tried[layer.name]
        options = [
            routine
            for routine in candidates(
                layer, "portable"
            )  # what every machine has, so that all choose the same
            if of_layer[routine].error <= budget.layer_error
        ] or [twin(candidates(layer, instruction_set)[0])]

        def seconds(routine: str, of_layer: Mapping[str, RoutineTrial] = of_layer) -> float:
            return bound(of_layer[routine].work, TYPICAL_ROOFS, mode="network").predicted

        chosen.append(replace(layer, routine=min(options, key=seconds) if len(options) > 1 else options[0]))
    return tuple(chosen)


def moves(measured: Mapping[str, Sequence[Candidate]], budget: Budget) -> list[tuple[str, str]]:
    """Order the changes of routine that save time: squared error added per second saved, the least first.

    A change that adds error must save at least 3 % of the layer's time, so that accuracy is not lost to noise.

    Args:
        measured: Candidates by layer; a layer starts with its first.
        budget: Its `layer_error` excludes candidates.

    Returns:
        (layer, routine) in order; a layer may move several times.
    """
    current = {name: options[0] for name, options in measured.items()}
    order: list[tuple[str, str]] = []
    while True:
        possible = [
            (
                (max(option.error**2 - now.error**2, 0.0)) / (now.seconds - option.seconds),
                option.seconds,
                name,
                option,
            )
            for name, now in current.items()
            for option in measured[name]
            if option.error <= budget.layer_error
            and option.seconds < now.seconds * (1 - LEAST_GAIN if option.error > now.error else 1)
        ]
        if not possible:
            return order
        *_, name, option = min(possible, key=lambda entry: entry[:3])
        current[name] = option
        order.append((name, option.routine))


def furthest(n_moves: int, accepted: Callable[[int], bool]) -> int:
    """Find how many moves are accepted: all of them, or a number found by bisection; 0 is not tried.

    Acceptance need not be monotone in the number of moves; the number returned was accepted, or is 0.
    """
    if n_moves == 0 or accepted(n_moves):
        return n_moves
    low, high = 0, n_moves
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accepted(middle) else (low, middle)
    return low


def fewest(n: int, accepted: Callable[[int], bool]) -> int | None:
    """Find the least number that is accepted, by bisection; None if not even `n` is.

    Acceptance need not be monotone: the number returned was accepted, and one less was not, or it is 0.
    """
    if accepted(0):
        return 0
    if n == 0 or not accepted(n):
        return None
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if accepted(middle) else (middle, high)
    return high


def warn_of_float32(
    least: Mapping[str, float], budget: Budget, opened: Verification | None, at_once: set[str]
) -> None:
    """Warn that no layer has weights in half precision, say why, and which budget would change that.

    Args:
        least: The error that each layer's best candidate adds.
        budget: What was allowed.
        opened: What the network loses with all layers in half precision that the budget of a layer allows.
        at_once: The layers that the budget of a layer excludes.
    """
    reasons, proposals = [], []
    if at_once:
        worst = max(at_once, key=lambda name: least[name])
        reasons.append(
            f"{len(at_once)} of {len(least)} layers add more than layer_error={budget.layer_error:g} by themselves, "
            f"{worst!r} most with {least[worst]:.2g}"
        )
        smallest = min((least[name] for name in at_once if math.isfinite(least[name])), default=math.inf)
        if math.isfinite(smallest):
            proposals.append(f"layer_error={_rounded_up(smallest):g}")
    if opened is not None and len(at_once) < len(least) and not opened.within(budget):
        reasons.append(f"all others together give {opened.exceeds(budget)}" if at_once else
                       f"all layers together give {opened.exceeds(budget)}")  # fmt: skip
        if math.isfinite(opened.output_error):
            proposals.append(f"output_error={_rounded_up(opened.output_error):g}")
        if opened.points is not None and opened.points > budget.points:
            proposals.append(f"points={_rounded_up(opened.points):g}")
    advice = (
        f"; Budget({', '.join(proposals)}) would change that"
        if proposals
        else ", and no budget would change that"
    )
    warnings.warn(
        f"the network stays at float32 altogether, so half precision gains nothing: {'; '.join(reasons)}{advice}",
        stacklevel=5,  # behind `converted`, `HalfNetwork.convert` and the state of torch around it
    )


def _rounded_up(value: float) -> float:
    """Two digits, not less than the value."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
