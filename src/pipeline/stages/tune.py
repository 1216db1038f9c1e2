"""Stage `tune`: choose the options of one training run, by trials on the validation images."""

import math
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter

import torch

from pipeline.artifacts.checkpoints import CheckpointFolder
from pipeline.artifacts.results.network import Score
from pipeline.artifacts.results.tuning import Trial, TuningFacts
from pipeline.artifacts.store import Artifact
from pipeline.config.training import TuningSpec
from pipeline.errors import ConvergenceError, DivergenceError, Interrupted, errors_about
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.device import choose_device
from pipeline.runtime.memory import keep_freed_memory
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.node_group import process_group
from pipeline.runtime.termination import termination
from pipeline.stages.parts.images import samples_of
from pipeline.stages.parts.networks import model_of
from pipeline.stages.parts.shared_checkpoint import agreed_checkpoint, locked
from pipeline.stages.parts.spec import read_spec, written
from pipeline.training import Samples, evaluate, train
from pipeline.training.search import Outcome, best, drawn, next_training


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

        def score(values: dict[str, float], seed: int) -> Trial:
            return _trial(spec, values, seed, dataset, training, validation, communicator, interrupted)

        for number in _trained(spec, draws, trials, score):
            if communicator.rank == 0:
                kept = [trial.model_dump(mode="json") for trial in trials]
                checkpoint.save({}, {"step": sum(trial.n_trainings for trial in trials), "trials": kept})
                words = _in_words(trials[number])
                print(f"{options.run}: trial {number + 1} of {spec.trials}, {words}", flush=True)
        chosen = best(_outcomes(trials))
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


def _trained(
    spec: TuningSpec,
    draws: list[dict[str, float]],
    trials: list[Trial],
    score: Callable[[dict[str, float], int], Trial],
) -> Iterator[int]:
    """Train what is left to train, and yield the number of each trial that was trained or repeated."""
    while following := next_training(_outcomes(trials), n_trials=len(draws), n_repeats=spec.final_seeds):
        number, repeat = following
        trial = score(draws[number], spec.seed + repeat)
        trials[number : number + 1] = [_joined(trials[number], trial) if repeat else trial]
        yield number


def _outcomes(trials: list[Trial]) -> list[Outcome]:
    scores = [[trial.validation, *trial.repeats] if trial.validation else [] for trial in trials]
    return [
        Outcome(
            accuracies=[score.accuracy or 0.0 for score in of_trial],
            losses=[math.inf if score.loss is None else score.loss for score in of_trial],
            diverged=trial.mean() is None,
        )
        for trial, of_trial in zip(trials, scores, strict=True)
    ]


def _joined(trial: Trial, repeat: Trial) -> Trial:
    """Join a trial and its repetition with another seed."""
    return trial.model_copy(
        update={
            "repeats": [*trial.repeats, *([repeat.validation] if repeat.validation else [])],
            "seconds": trial.seconds + repeat.seconds,
            "failure": repeat.failure,
        }
    )


def _trial(
    spec: TuningSpec,
    values: dict[str, float],
    seed: int,
    dataset: Artifact,
    training: Samples,
    validation: Samples,
    communicator: Communicator,
    interrupted: Callable[[], bool],
) -> Trial:
    model = model_of(spec.model, dataset, seed).to(training.labels.device)
    # Nobody looks at the epochs of a trial, so they are measured on one sample.
    recipe = replace(spec.run.with_values(values).recipe(), n_measured=1)
    start = perf_counter()
    try:
        train(
            model,
            recipe,
            training,
            validation[:1],
            seed=seed,
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
    mean = trial.mean()
    if mean is None:
        return f"{values}: diverged ({trial.failure})"
    seeds = f" (mean of {1 + len(trial.repeats)} seeds)" if trial.repeats else ""
    return f"{values}: validation accuracy {mean.accuracy:.4f}, loss {mean.loss:.4f}{seeds}"
