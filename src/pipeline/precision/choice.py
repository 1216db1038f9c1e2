"""Choose a network's routines by measuring all of them inside it."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.precision.routines import candidates
from pipeline.precision.sampling import Sampling, one_core
from pipeline.precision.selection import (
    Budget,
    Candidate,
    Verification,
    added_errors,
    furthest,
    moves,
    verify,
)

if TYPE_CHECKING:
    from pipeline.precision.network import HalfNetwork

ERROR_SAMPLES = 8  # through every candidate of every layer


@dataclass(frozen=True)
class Selection:
    """What came out of choosing routines by measurement.

    Attributes:
        network: With the chosen routines.
        batch: The batch size that they were chosen for.
        candidates: Seconds and error of what there was to choose from, by layer; the first is the general float32 one.
        n_moves: How many of `n_possible` moves away from float32 the budget allows. It is 0 also where the budget does
            not even allow float32 routines on the weights as stored, but the plan's own routines, which are then kept.
        verification: What the whole network loses on the samples.
    """

    network: "HalfNetwork"
    batch: int
    candidates: Mapping[str, Sequence[Candidate]]
    n_moves: int
    n_possible: int
    verification: Verification

    def rows(self) -> list[dict[str, Any]]:
        """What there was to choose from, as a table."""
        chosen = {layer.name: layer.routine for layer in self.network.layers}
        return [
            {
                "layer": name,
                "batch": self.batch,
                "chosen": candidate.routine == chosen[name],
                **asdict(candidate),
            }
            for name, of_layer in self.candidates.items()
            for candidate in of_layer
        ]


def choose_routines(
    network: "HalfNetwork",
    samples: Tensor,
    labels: Tensor | None = None,
    *,
    batch: int = 1,
    exact: Tensor | None = None,
    budget: Budget | None = None,
    sampling: Sampling | None = None,
) -> Selection:
    """Take the fastest routines that the budget allows; see `HalfNetwork.choose_routines` for the arguments."""
    budget = budget or Budget()
    execution = network.execution
    execution.check(samples)
    if len(samples) == 0 or batch < 1:
        raise ValueError(
            f"wanted at least one sample and a batch of at least 1, found {len(samples)} and {batch}"
        )
    errors = added_errors(
        network.layers,
        network.tensors(),
        network.parameters,
        samples[:ERROR_SAMPLES],
        execution.instruction_set,
    )
    measured = _measured(network, samples[torch.arange(batch) % len(samples)], errors, sampling or Sampling())
    order = moves(measured, budget)
    exact = network.float_twin()(samples) if exact is None else exact
    start = {name: of_layer[0].routine for name, of_layer in measured.items()}

    def after(n: int) -> "HalfNetwork":
        return network.with_routines(start | dict(order[:n]))

    def accepted(n: int) -> bool:
        return verify(after(n)(samples), exact, labels).within(budget)

    n_moves = furthest(len(order), accepted)
    chosen = after(n_moves)
    verification = verify(chosen(samples), exact, labels)
    if not verification.within(budget):
        # Nothing was accepted; what was planned may do better than the start.
        chosen, verification = network, verify(network(samples), exact, labels)
    if not verification.within(budget):
        raise ConfigError(
            f"no choice of routines is within the budget: {verification.exceeds(budget)}; raise the budget, or "
            "convert the network again with a lower one, so that more of it stays at float32"
        )
    return Selection(chosen, batch, measured, n_moves, len(order), verification)


def _measured(
    network: "HalfNetwork", x: Tensor, errors: Mapping[str, Mapping[str, float]], sampling: Sampling
) -> dict[str, list[Candidate]]:
    """Time every candidate of every layer inside the network, where a layer without more of them repeats its last."""
    execution = network.execution
    options = {layer.name: candidates(layer, execution.instruction_set) for layer in network.layers}
    variants = [
        network.with_routines(
            {name: of_layer[min(number, len(of_layer) - 1)] for name, of_layer in options.items()}
        )
        for number in range(max(map(len, options.values())))
    ]
    runs = {str(n): functools.partial(v.execution.seconds_per_step, x) for n, v in enumerate(variants)}
    with one_core():
        taken = sampling.in_network(runs)
    # Other work on the machine adds time and never takes any away: where it meets half of the samples, their median
    # compares its share in the sides and not the sides.
    seconds = np.stack(
        [np.quantile(taken[str(number)].seconds, 0.25, axis=0) for number in range(len(variants))]
    )
    measured = {}
    for place, layer in enumerate(network.layers):
        of_layer = [
            Candidate(routine, float(seconds[number, place]), errors[layer.name][routine])
            for number, routine in enumerate(options[layer.name])
        ]
        # Where to start: the first float32 routine, the general one.
        measured[layer.name] = sorted(
            of_layer, key=lambda c: " " in c.routine and not c.routine.endswith("fp32")
        )
    return measured
