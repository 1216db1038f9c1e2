"""The training loop."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import nn

from pipeline.errors import ConfigError, Interrupted
from pipeline.runtime.communicator import Communicator, Serial
from pipeline.training.average import Average
from pipeline.training.checkpoint import State, capture_state, restore_state
from pipeline.training.diagnosis import blame_layer, require_agreement
from pipeline.training.evaluation import evaluate
from pipeline.training.halves import Halves, Noise
from pipeline.training.history import EpochRecord, History, RunState
from pipeline.training.kfac import KFAC
from pipeline.training.objective import Objective
from pipeline.training.optimizers import SecondOrder, at_mean, set_rate, settle
from pipeline.training.recipe import Recipe, plan
from pipeline.training.rescaling import rescale, scale_free_weights
from pipeline.training.sampling import Batches, Samples
from pipeline.training.schedule import coupled_momentum, learning_rate


def train(
    model: nn.Module,
    recipe: Recipe,
    training: Samples,
    validation: Samples,
    *,
    seed: int,
    communicator: Communicator | None = None,
    state: State | None = None,
    on_checkpoint: Callable[[State], None] | None = None,
    checkpoint_steps: int = 0,
    on_start: Callable[[Sequence[str]], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    interrupted: Callable[[], bool] | None = None,
) -> History:
    """Train a network in place, on one process or several that call this together.

    Every process holds the same network and all samples, and takes its share of each batch. The outcome is
    a function of the initial weights, the recipe, the samples and the seed. An interruption does not change it: a run
    that goes on from a `State` with the same number of processes is bit-equal to one that was never stopped. With
    another number of processes the sums of a step are taken in another order, so its gradient is rounded differently.
    Training amplifies the difference step by step: over twenty steps of a small network it stays below 1e-5 of the
    weights, as tests/mpi/test_cold_processes.py checks; over many steps it has no bound.

    Args:
        model: Left in evaluation mode with the final weights.
        training: Training samples, visited in a new random order every epoch.
        validation: Held-out samples, used only for measurement.
        seed: Non-negative seed of the order of samples and of smoothing; the initial weights do not depend on it.
        state: The checkpoint to go on from; it replaces the model's own weights.
        on_checkpoint: Called on all processes with the state after every `checkpoint_steps` steps.
        checkpoint_steps: Zero for no checkpoints.
        on_start: Called on all processes before the first step if K-FAC is to precondition, with the names of the
            trained parameters whose gradients it leaves as they are.
        on_epoch: Called on all processes after each epoch, before a checkpoint of the same step.
        on_step: Called on all processes with steps done, steps in all and the loss of the step.
        interrupted: Called after every step; once it returns True on any process, all stop after a last checkpoint.

    Returns:
        One record per epoch, from the first even if resumed.

    Raises:
        ConfigError: If the batches do not suit samples and processes, or the state is that of another run.
        ConvergenceError: If a loss or a gradient is not finite; step and layer are named. Also if processes
            no longer hold the same weights at the end of an epoch.
        Interrupted: If `interrupted` returned True and steps were left to do; all processes raise it.
        ValueError: If a label is out of range for the network's classes.
    """
    communicator = communicator or Serial()
    steps = plan(recipe, n_samples=len(training), n_processes=communicator.size)
    optimizer = recipe.optimizer.build(model)
    scale_free = scale_free_weights(model) if recipe.rescaled_weights else []
    kfac = None
    if isinstance(recipe.optimizer, SecondOrder):
        kfac = KFAC(
            model, recipe.optimizer, communicator=communicator, loss="sum", sums_gradients=True, seed=seed
        )
    smoothing = [s.within(steps.n_steps) for s in recipe.smoothing]
    objective = Objective(
        model,
        training,
        Batches(len(training), steps.steps_per_epoch, seed),
        n_classes=_n_classes(model, training),
        smoothing=[*recipe.augmentation, *smoothing],
        micro_batch=recipe.micro_batch,
        seed=seed,
        communicator=communicator,
        kfac=kfac,
        precision=recipe.precision,
        in_halves=recipe.noise_scale or (kfac is not None and kfac.settings.difference_weight > 0),
    )
    identity = f"{recipe}, seed {seed}, {len(training)} training and {len(validation)} validation samples"
    progress = RunState()
    average = Average(model)
    if state is not None:
        if state.scalars["identity"] != identity:
            raise ConfigError(
                f"the checkpoint is of another run: {_difference(state.scalars['identity'], identity)}; "
                "delete it to start afresh"
            )
        restore_state(state, model, optimizer, kfac, average)
        progress = RunState.from_scalars(state.scalars)
    if kfac is not None and on_start is not None:
        on_start(kfac.not_preconditioned)

    while progress.step < steps.n_steps:
        start = perf_counter()
        step = progress.step
        done = step / steps.n_steps
        loss = objective.backward(step, done=done)
        progress.gradient_seconds += perf_counter() - start
        lr = learning_rate(
            step, steps.n_steps, peak=recipe.optimizer.lr, n_warmup=steps.n_warmup, schedule=recipe.schedule
        )
        if kfac is not None:
            begin, before = perf_counter(), dict(kfac.seconds)
            halves = objective.halves
            kfac.step(lr, done=done, difference=halves.difference if halves is not None else None)
            progress.preconditioner_seconds += perf_counter() - begin
            progress.factor_seconds += kfac.seconds["factors"] - before["factors"]
            progress.inverse_seconds += kfac.seconds["inverses"] - before["inverses"]
        if recipe.noise_scale and objective.halves is not None:
            progress.add_noise(_noise(objective.halves, model, kfac))
        momentum = recipe.optimizer.momentum
        if recipe.coupled_momentum:
            momentum = coupled_momentum(lr, momentum=momentum, peak=recipe.optimizer.lr)
        set_rate(optimizer, lr, momentum)
        optimizer.step()
        rescale(scale_free)
        if kfac is not None and kfac.wants_verdict:
            kfac.judge(loss, objective.loss(step, done=done))
        if any(s.averages((step + 1) / steps.n_steps) for s in smoothing):
            average.add()
        progress.add(loss, objective.n_samples(step), perf_counter() - start)
        if on_step is not None:
            on_step(progress.step, steps.n_steps, loss)
        if progress.step % steps.steps_per_epoch == 0:
            require_agreement(model, step=progress.step, communicator=communicator)
            begin = perf_counter()
            with at_mean(optimizer), average.shown():
                record = _measure(model, progress, training[: recipe.n_measured], validation, communicator)
            progress.evaluation_seconds += perf_counter() - begin
            record = replace(record, evaluation_seconds=progress.evaluation_seconds)
            if kfac is not None:
                record = replace(record, **_figures(kfac, last=progress.step == steps.n_steps))
            progress.end_epoch(record)
            if on_epoch is not None:
                on_epoch(record)
        stops = progress.step < steps.n_steps and _any(interrupted, training.labels.device, communicator)
        due = stops or (checkpoint_steps > 0 and progress.step % checkpoint_steps == 0)
        if on_checkpoint is not None and due:
            scalars = {"identity": identity, **progress.to_scalars()}
            on_checkpoint(capture_state(model, optimizer, kfac, average, scalars))
        if stops:
            # The first process to exit ends the others, so none may exit while another still writes.
            communicator.barrier()
            raise Interrupted(f"stopped on request after step {progress.step} of {steps.n_steps}")
    if kfac is not None:
        kfac.remove()
    settle(optimizer)
    average.settle()
    model.eval()
    return progress.history


def _noise(halves: Halves, model: nn.Module, kfac: KFAC | None) -> Noise:
    """Estimate gradient noise from a batch, in the metric in which the optimizer's step is the gradient."""
    if kfac is not None:
        return halves.noise_of_squares(*kfac.squares)
    return halves.noise({name: p.grad for name, p in model.named_parameters() if p.grad is not None})


def _any(interrupted: Callable[[], bool] | None, device: torch.device, communicator: Communicator) -> bool:
    """Whether any process was interrupted; all must ask at the same step."""
    if interrupted is None:
        return False
    flag = torch.tensor([float(interrupted())], device=device)
    communicator.all_reduce(flag)
    return bool(flag)


@torch.no_grad()
def _n_classes(model: nn.Module, training: Samples) -> int:
    model.eval()
    n_classes: int = model(training.images[:1]).shape[1]
    if int(training.labels.max()) >= n_classes:
        raise ValueError(f"label {int(training.labels.max())} is out of range for {n_classes} classes")
    return n_classes


def _measure(
    model: nn.Module, progress: RunState, training: Samples, validation: Samples, communicator: Communicator
) -> EpochRecord:
    on_training = evaluate(model, training, communicator=communicator)
    on_validation = evaluate(model, validation, communicator=communicator)
    if not (math.isfinite(on_training.loss) and math.isfinite(on_validation.loss)):
        examples = (training if not math.isfinite(on_training.loss) else validation)[:1024]
        blame_layer(model, lambda: model(examples.images), step=progress.step - 1, communicator=communicator)
    n_steps = progress.step - (progress.history[-1].steps if progress.history else 0)
    return EpochRecord(
        epoch=len(progress.history) + 1,
        steps=progress.step,
        seconds=progress.seconds,
        objective=progress.objective_sum / progress.n_samples,
        train_loss=on_training.loss,
        train_accuracy=on_training.accuracy,
        validation_loss=on_validation.loss,
        validation_accuracy=on_validation.accuracy,
        gap=on_validation.loss - on_training.loss,
        gradient_seconds=progress.gradient_seconds,
        preconditioner_seconds=progress.preconditioner_seconds,
        factor_seconds=progress.factor_seconds,
        inverse_seconds=progress.inverse_seconds,
        noise_variance=progress.noise_variance / n_steps,
        noise_square=progress.noise_square / n_steps,
    )


def _figures(kfac: KFAC, *, last: bool) -> dict[str, Any]:
    """Return a record's figures of K-FAC; those of layers only at the end, because they cost eigenvalues."""
    names = ("n_retries", "n_stale", "n_skipped", "step_size", "damping", "factor_age", "inverse_age")
    figures: dict[str, Any] = {name: getattr(kfac, name) for name in names}
    if last:
        figures["layers"] = {}
        for name, matrices in kfac.statistics()["layers"].items():
            known = {
                f"{key}_{matrix}": matrices[matrix][key]
                for matrix in matrices
                for key in ("trace", "condition")
            }
            if "A" in matrices and "G" in matrices:
                # The root of the damping is multiplied by pi for A and divided by pi for G.
                known["pi"] = math.sqrt(matrices["A"]["damping"] / matrices["G"]["damping"])
            figures["layers"][name] = known
    return figures


def _difference(theirs: str, ours: str) -> str:
    """Tell where the identities of two runs differ."""
    there, here = (re.split(r", |\((?=\w+=)", text) for text in (theirs, ours))
    there, here = [x for x in there if x not in here], [x for x in here if x not in there]
    return " and ".join(
        f"{', '.join(part)} {place}" for part, place in ((there, "there"), (here, "here")) if part
    )
