"""Learning-rate range test: a short run in which the rate grows until the loss rises."""

import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import ConvergenceError
from pipeline.runtime.communicator import Communicator, Serial
from pipeline.training.processes import detected, trains_together

SMOOTHING = 0.9  # weight of the past in the mean of losses
RISE = 5.0  # typical deviations of a loss from this mean by which the mean may exceed its first values
SETTLED = 10  # steps until the typical deviation is known, and the average is more than a few single losses


@dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    Attributes:
        rates: The learning rates of the steps that were taken.
        losses: A moving average of the losses before these steps.
        steepest: The rate at which this average fell fastest per decade, a good peak rate; None if it never fell.
        largest: The rate at which this average was lowest; larger rates do harm.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    steepest: float | None
    largest: float


def learning_rate_range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[int], Tensor],
    *,
    lowest: float = 1e-5,
    highest: float = 10.0,
    n_steps: int = 100,
) -> RangeTest:
    """Increase the rate geometrically from step to step and record the loss [1, section 3.3].

    The test ends early if the average loss is not finite or, after the tenth step, exceeds the first ones by five times
    the typical deviation of a loss from the average; a constant that is added to the loss changes nothing. Network and
    optimizer are restored at the end. All groups of parameters get the same rate. The average of the first ten losses
    shows hardly more than their own scatter: no rate among theirs is chosen, unless there are fewer than twenty steps.

    With the processes of a `DistributedDataParallel`, or of a `KFACOptimizer`, the losses are means over all, so that
    all find the same rates.

    Args:
        model: The network, in training mode.
        optimizer: Any torch optimizer, also a `KFACOptimizer`.
        loss_of: Computes the loss of a step, counted from 0, on a batch of its own.
        lowest: The first rate.
        highest: The last rate.
        n_steps: Largest number of steps.

    Raises:
        ValueError: If the rates do not grow or there are fewer than two steps.
        ConvergenceError: If the first loss is not finite.

    References:
        [1] Smith, "Cyclical learning rates for training neural networks", WACV 2017.
    """
    if not 0 < lowest < highest or n_steps < 2:
        raise ValueError(
            f"a range test needs 0 < lowest < highest and two steps, not {lowest}, {highest} and {n_steps}"
        )
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    rates: list[float] = []
    losses: list[float] = []
    deviations: list[float] = []
    mean, first = 0.0, math.inf
    kfac = getattr(optimizer, "kfac", None)
    communicator = kfac.communicator if kfac else detected(model) if trains_together(model) else Serial()
    try:
        for step in range(n_steps):
            lr = lowest * (highest / lowest) ** (step / (n_steps - 1))
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad()
            loss = loss_of(step)
            value = _over_all(loss, communicator)
            mean = SMOOTHING * mean + (1 - SMOOTHING) * value
            average = mean / (1 - SMOOTHING ** (step + 1))
            deviations.append(abs(value - average))
            if not math.isfinite(average):
                break
            if step == SETTLED:
                first = statistics.median(losses)
            if step >= SETTLED and average > first + RISE * statistics.median(deviations):
                break
            rates.append(lr)
            losses.append(average)
            loss.backward()  # type: ignore[no-untyped-call]
            try:
                optimizer.step()
            except ConvergenceError:
                break
    finally:
        optimizer.zero_grad()
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
        if kfac is not None:
            kfac.discard()
    if not losses:
        raise ConvergenceError(
            "the first loss of the range test is not finite; look for bad numbers in the batch"
        )
    begin = SETTLED if len(losses) >= 2 * SETTLED else 0
    falls = {i: losses[i + 1] - losses[i] for i in range(begin, len(losses) - 1)}
    fastest = min(falls, key=falls.__getitem__, default=None)
    fell = fastest is not None and falls[fastest] < 0
    lowest_loss = min(range(begin, len(losses)), key=losses.__getitem__)
    return RangeTest(
        tuple(rates),
        tuple(losses),
        rates[fastest] if fastest is not None and fell else None,
        rates[lowest_loss],
    )


def _over_all(loss: Tensor, communicator: Communicator) -> float:
    """Return the mean of a loss over all processes."""
    value = loss.detach().double().reshape(1).clone()
    if communicator.size > 1:
        communicator.all_reduce(value)
    return float(value) / communicator.size
