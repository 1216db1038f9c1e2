"""Stage `tune`: options of one training run, the best of some trials on the validation images."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import torch

from pipeline.artifacts.checkpoints import CheckpointFolder
from pipeline.artifacts.results.network import Score
from pipeline.artifacts.results.tuning import Trial, TuningFacts
from pipeline.artifacts.store import Artifact
from pipeline.config.training import TuningSpec
from pipeline.errors import ConvergenceError, DivergenceError, Interrupted
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.device import choose_device
from pipeline.runtime.memory import keep_freed_memory
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.node_group import process_group
from pipeline.runtime.termination import termination
from pipeline.stages.parts.images import samples_of
from pipeline.stages.parts.networks import model_of
from pipeline.stages.parts.shared_checkpoint import agreed_checkpoint, locked
from pipeline.stages.parts.spec import errors_about, read_spec, written
from pipeline.training import Samples, evaluate, train
from pipeline.training.search import drawn


def run(options: Namespace) -> None:
    """Train with the drawn options, one trial after the other, and choose; finished trials survive an interruption.

    Raises:
        ConvergenceError: If every trial diverged.
    """
    keep_freed_memory()
    with errors_about(f"training.runs.{options.run}.search"):
        mpi = MpiCommunicator.of(options.processes)
        device = choose_device(read_spec(options.spec, TuningSpec).device, mpi.local_rank, label=options.run)
        with termination() as interrupted, process_group(device, mpi) as communicator:
            _tune(options, device, communicator, interrupted)


def _tune(
    options: Namespace, device: torch.device, communicator: Communicator, interrupted: Callable[[], bool]
) -> None:
    spec = read_spec(options.spec, TuningSpec)
    dataset = Artifact.open(options.dataset, "dataset", contents=communicator.rank == 0)
    training = samples_of(dataset, "train", device, spec.run.train_samples)
    validation = samples_of(dataset, "validation", device)
    identity = {
        "spec": spec.model_dump(mode="json"),
        "code": options.code,
        "dataset": dataset.manifest["files"],
    }
    checkpoint = CheckpointFolder.of(options.checkpoints, identity)
    draws = drawn(spec.search, spec.trials, seed=spec.seed, optimizer=spec.run.optimizer)
    with locked(checkpoint, options.run, device, communicator, interrupted):
        found = agreed_checkpoint(checkpoint, device, communicator)
        trials = [Trial.model_validate(trial) for trial in found.scalars["trials"]] if found else []
        for values in draws[len(trials) :]:
            trial = _trial(spec, values, dataset, training, validation, communicator, interrupted)
            trials.append(trial)
            if communicator.rank == 0:
                kept = [trial.model_dump(mode="json") for trial in trials]
                checkpoint.save({}, {"step": len(trials), "trials": kept})
                print(f"{options.run}: trial {len(trials)} of {spec.trials}, {_in_words(trial)}", flush=True)
        chosen = best(trials)
        if chosen is None:
            which = "the only trial" if spec.trials == 1 else f"all {spec.trials} trials"
            raise ConvergenceError(
                f"{which} diverged (the last: {trials[-1].failure}); lower the bounds of lr"
            )
        if communicator.rank == 0:
            with written(options, "tuning", spec) as draft:
                draft.facts = TuningFacts(
                    run=options.run,
                    seed=spec.seed,
                    chosen=chosen,
                    values=trials[chosen].values,
                    trials=trials,
                )
            checkpoint.remove()
            print(f"{options.run}: chose trial {chosen + 1}, {_in_words(trials[chosen])}")


def best(trials: list[Trial]) -> int | None:
    """The trial of the highest validation accuracy, at equal ones of the lowest loss; none where all diverged."""
    scores = {
        number: (trial.validation.accuracy or 0.0, -(trial.validation.loss or 0.0), -number)
        for number, trial in enumerate(trials)
        if trial.validation is not None
    }
    return max(scores, key=lambda number: scores[number], default=None)


def _trial(
    spec: TuningSpec,
    values: dict[str, float],
    dataset: Artifact,
    training: Samples,
    validation: Samples,
    communicator: Communicator,
    interrupted: Callable[[], bool],
) -> Trial:
    model = model_of(spec.model, dataset, spec.seed).to(training.labels.device)
    # Nobody looks at the epochs of a trial: they are measured on one sample.
    recipe = replace(spec.run.with_values(values).recipe(), n_measured=1)
    start = perf_counter()
    try:
        train(
            model,
            recipe,
            training,
            validation[:1],
            seed=spec.seed,
            communicator=communicator,
            interrupted=interrupted,
        )
    except DivergenceError as error:
        return Trial(values=values, validation=None, seconds=perf_counter() - start, failure=str(error))
    except Interrupted as stop:
        raise Interrupted(f"{stop}; start the same job again to go on with this trial") from None
    seconds = perf_counter() - start
    score = evaluate(model, validation, communicator=communicator)
    return Trial(values=values, validation=Score(loss=score.loss, accuracy=score.accuracy), seconds=seconds)


def _in_words(trial: Trial) -> str:
    values = ", ".join(f"{name} {value:.3g}" for name, value in trial.values.items())
    if trial.validation is None:
        return f"{values}: diverged ({trial.failure})"
    return f"{values}: validation accuracy {trial.validation.accuracy:.4f}, loss {trial.validation.loss:.4f}"
