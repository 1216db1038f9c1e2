"""Choose a network's routines by measuring all of them inside it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.precision.execution import Execution
from pipeline.precision.plan import Layer
from pipeline.precision.sampling import Sampling, one_core
from pipeline.precision.selection import Candidate, furthest, moves
from pipeline.precision.verification import Budget, Verification


@dataclass(frozen=True)
class RoutineChoice:
    """The fastest routines that a budget allows.

    Attributes:
        routines: Routines by layer; empty if the plan's own are kept.
        n_moves: Number of moves away from float32 that the budget allows.
        n_possible: Number of all moves.
        verification: What the whole network loses with these routines.
    """

    routines: Mapping[str, str]
    n_moves: int
    n_possible: int
    verification: Verification


def choose(
    measured: Mapping[str, Sequence[Candidate]],
    budget: Budget,
    verified: Callable[[Mapping[str, str]], Verification],
) -> RoutineChoice:
    """Take the fastest routines that the budget allows.

    Args:
        measured: Candidates by layer; a layer starts with its first.
        budget: What the routines may cost.
        verified: Verifies the whole network with these routines by layer; layers left out keep the plan's routines.

    Raises:
        ConfigError: If neither the first candidates nor the plan's own routines are within the budget.
    """
    order = moves(measured, budget)
    start = {name: of_layer[0].routine for name, of_layer in measured.items()}

    def after(n: int) -> dict[str, str]:
        return start | dict(order[:n])

    n_moves = furthest(len(order), lambda n: verified(after(n)).within(budget))
    routines = after(n_moves)
    verification = verified(routines)
    if not verification.within(budget):
        # Nothing was accepted; the plan's routines may do better than the first candidates.
        routines = {}
        verification = verified(routines)
    if not verification.within(budget):
        raise ConfigError(
            f"no choice of routines is within the budget: {verification.exceeds(budget)}; raise the budget, or "
            "convert the network again with a lower one, so that more of it stays at float32"
        )
    return RoutineChoice(routines, n_moves, len(order), verification)


def measure(
    layers: Sequence[Layer],
    errors: Mapping[str, Mapping[str, float]],
    variant: Callable[[Mapping[str, str]], Execution],
    x: Tensor,
    sampling: Sampling,
) -> dict[str, list[Candidate]]:
    """Time every candidate of every layer inside the network; layers with fewer candidates repeat their last one.

    Args:
        layers: The plan.
        errors: The error of each candidate, by layer and routine.
        variant: Builds the network on other routines, given by layer.
        x: The batch to time.
        sampling: Settings of the sampling.

    Returns:
        Candidates by layer; the first is the general float32 one.
    """
    options = {layer.name: list(errors[layer.name]) for layer in layers}
    variants = [
        variant({name: of_layer[min(number, len(of_layer) - 1)] for name, of_layer in options.items()})
        for number in range(max(map(len, options.values())))
    ]
    runs = {str(n): functools.partial(v.seconds_per_step, x) for n, v in enumerate(variants)}
    with one_core():
        taken = sampling.in_network(runs)
    # Other work on the machine only adds time. If it disturbs half of the samples, medians compare the disturbances and
    # not the sides; the lower quartile does not.
    seconds = np.stack(
        [np.quantile(taken[str(number)].seconds, 0.25, axis=0) for number in range(len(variants))]
    )
    measured = {}
    for place, layer in enumerate(layers):
        of_layer = [
            Candidate(routine, float(seconds[number, place]), errors[layer.name][routine])
            for number, routine in enumerate(options[layer.name])
        ]
        # The first candidate is the first float32 routine, the general one.
        measured[layer.name] = sorted(
            of_layer, key=lambda c: " " in c.routine and not c.routine.endswith("fp32")
        )
    return measured
