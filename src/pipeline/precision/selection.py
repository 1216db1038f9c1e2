"""Choose each layer's routine: the fastest whose error fits, verified on samples, failing closed to float32.

Every layer starts with its general float32 routine. Moves to faster ones are made in the order of squared error added
per second saved, as rounding errors of different layers add up like independent ones. How far along that order the
whole network stays within its budget is found by bisection, on samples that were not trained on.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor

from pipeline.options import require_bounds
from pipeline.precision.error import relative_error
from pipeline.precision.plan import INPUT, Layer
from pipeline.precision.predictions import LabelError, check_labels
from pipeline.precision.reference import apply
from pipeline.precision.roofline import TYPICAL_ROOFS, Work, bound, work_of
from pipeline.precision.routines import build, candidates, run_layer, twin

LEAST_GAIN = 0.03
Allowed = Annotated[float, Ge(0)]


@dataclass(frozen=True)
class Budget:
    """What half precision may cost.

    Attributes:
        points: Accuracy, in percentage points, where labels are known.
        layer_error: What one layer may add: |y - exact| / |exact| for exact inputs, Frobenius norm.
        output_error: The same quotient for the network's output, all layers together.
    """

    points: Allowed = 0.1
    layer_error: Allowed = 5e-3
    output_error: Allowed = 2e-2

    def __post_init__(self) -> None:
        require_bounds(self)


@dataclass(frozen=True)
class Candidate:
    """One routine for one layer: the lower quartile of its seconds for the batch, and the relative error it adds.

    The error is that of the layer's result for exact inputs, by rounded weights, products and results together.
    """

    routine: str
    seconds: float
    error: float


@dataclass(frozen=True)
class Verification:
    """What a network in half precision loses on samples.

    Attributes:
        n_samples: How many there were.
        output_error: |y - exact| / |exact| of the network's output.
        varying_error: |y - exact| / |exact - m|, where m is the mean of exact over the samples: where an output is
            hardly more than its bias, the error of what tells samples apart. None where nothing varies.
        points: Accuracy lost, in percentage points; None without labels.
        n_changed: Predictions that differ from float32's.
    """

    n_samples: int
    output_error: float
    varying_error: float | None
    points: float | None
    n_changed: int

    def within(self, budget: Budget) -> bool:
        return self.output_error <= budget.output_error and (
            self.points is None or self.points <= budget.points
        )

    def exceeds(self, budget: Budget) -> str:
        """What was found and what was wanted, for an error text."""
        lost = "" if self.points is None else f", and {self.points:.3g} points lost of {budget.points:g}"
        return f"an output error of {self.output_error:.2g}, wanted at most {budget.output_error:g}{lost}"


def verify(found: Tensor, exact: Tensor, labels: Tensor | None) -> Verification:
    """Compare outputs of shape (n, classes) with those of float32.

    Raises:
        ValueError: If the shapes differ.
        LabelError: If the labels are not one class for each prediction.
    """
    if found.shape != exact.shape:
        raise ValueError(
            f"the network gives shape {tuple(found.shape)}; wanted exact ones like it, not {tuple(exact.shape)}"
        )
    before, after = exact.argmax(dim=1), found.argmax(dim=1)
    lost = None
    if labels is not None:
        require_labels(labels, tuple(before.shape), exact.shape[1])
        lost = 100 * ((before == labels).double().mean() - (after == labels).double().mean()).item()
    error = relative_error(found, exact)
    reference = exact.double()
    varying = (reference - reference.mean(dim=0)).norm().item()
    return Verification(
        n_samples=len(found),
        output_error=error,
        varying_error=error * reference.norm().item() / varying if varying > 0 else None,
        points=lost,
        n_changed=int((before != after).sum()),
    )


def require_labels(labels: Tensor, predictions: tuple[int, ...], n_classes: int) -> None:
    """Refuse labels unless they are one class for each prediction.

    Raises:
        LabelError: If they are not.
    """
    if tuple(labels.shape) != predictions:
        raise LabelError(
            f"labels have shape {tuple(labels.shape)}, but the network gives {predictions} predictions; "
            "wanted one label for each, so leave them out where outputs are no classes"
        )
    check_labels(labels, n_classes)


@dataclass(frozen=True)
class RoutineTrial:
    """What one routine of a layer adds in error, for inputs that are exact, and what it does for one sample."""

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

    What rounding the weights does is part of the error, as far as `complete` knows them otherwise than as they are
    stored.

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


def typical_routines(
    layers: Sequence[Layer],
    tried: Mapping[str, Mapping[str, RoutineTrial]],
    budget: Budget,
    instruction_set: str,
) -> tuple[Layer, ...]:
    """Give each layer the routine that should be the fastest for one sample among those whose error fits.

    Judged by the roofs of a typical processor, and not by time, so that the choice does not depend on the weather. A
    layer none of whose half-precision routines fits gets its general float32 one.
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

    One that adds error has to save 3 % of the layer's time at least, so that noise does not trade accuracy for nothing.

    Args:
        measured: Candidates by layer; the first is where the layer starts.
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
    """How many moves can be made: all if that is accepted, else by bisection; 0 is not asked.

    Acceptance need not be monotone in the number of moves; what is returned was accepted, or is 0.
    """
    if n_moves == 0 or accepted(n_moves):
        return n_moves
    low, high = 0, n_moves
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accepted(middle) else (low, middle)
    return low


def fewest(n: int, accepted: Callable[[int], bool]) -> int | None:
    """The least number that is accepted, by bisection; None if not even `n` is.

    Acceptance need not be monotone: what is returned was accepted, and one less was not, or it is 0.
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
    least: Mapping[str, float], budget: Budget, opened: tuple[Any, Verification] | None, at_once: set[str]
) -> None:
    """Warn that no layer has weights in half precision, say why, and which budget would change that.

    Args:
        least: The error that each layer's best candidate adds.
        budget: What was allowed.
        opened: The network with all layers in half precision that the budget of a layer allows, and what it loses.
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
    if opened is not None and len(at_once) < len(least) and not opened[1].within(budget):
        reasons.append(f"all others together give {opened[1].exceeds(budget)}" if at_once else
                       f"all layers together give {opened[1].exceeds(budget)}")  # fmt: skip
        if math.isfinite(opened[1].output_error):
            proposals.append(f"output_error={_rounded_up(opened[1].output_error):g}")
        if opened[1].points is not None and opened[1].points > budget.points:
            proposals.append(f"points={_rounded_up(opened[1].points):g}")
    advice = (
        f"; Budget({', '.join(proposals)}) would change that"
        if proposals
        else ", and no budget would change that"
    )
    warnings.warn(
        f"the network stays at float32 altogether, so half precision gains nothing: {'; '.join(reasons)}{advice}",
        stacklevel=4,  # behind `convert` and the state of torch around it
    )


def _rounded_up(value: float) -> float:
    """Two digits, not less than the value."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
