"""Stage `train`: train one network with one seed, on the processes that started together."""

import math
import resource
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict

import torch

from pipeline.artifacts.checkpoints import CheckpointFolder
from pipeline.artifacts.results.network import Flatness, Messages, NetworkFacts, Score
from pipeline.artifacts.results.tuning import TuningFacts
from pipeline.artifacts.store import Artifact
from pipeline.config.training import TrainingSpec
from pipeline.errors import DivergenceError, Interrupted, errors_about
from pipeline.models import Classifier
from pipeline.runtime.clock import ProgressLine
from pipeline.runtime.communicator import Communicator, Counting
from pipeline.runtime.device import choose_device
from pipeline.runtime.members import members_of
from pipeline.runtime.memory import keep_freed_memory
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.node_group import process_group
from pipeline.runtime.termination import termination
from pipeline.stages.parts.images import samples_of
from pipeline.stages.parts.networks import model_of
from pipeline.stages.parts.reporter import Reporter
from pipeline.stages.parts.shared_checkpoint import agreed_checkpoint, locked
from pipeline.stages.parts.spec import read_spec, written
from pipeline.training import EpochRecord, History, Sharpness, State, evaluate, measure_sharpness, plan, train

# Key in a checkpoint of a network that is trained and not yet judged; its value are the records of the epochs.
TRAINED = "trained"

# Training samples to measure the minimum's sharpness on: the curvature of so many differs less from that of all than it
# does from seed to seed.
SHARPNESS_SAMPLES = 1024


def run(options: Namespace) -> None:
    """Train, from the checkpoint of a former job if there is one, and judge the result; only here on the test split."""
    keep_freed_memory()
    label = f"{options.run}, seed {options.seed}"
    with errors_about(f"training.runs.{label}"):
        mpi = MpiCommunicator.of(options.processes)
        device = choose_device(read_spec(options.spec, TrainingSpec).device, mpi.local_rank, label=label)
        members = members_of(mpi)
        if mpi.rank == 0 and mpi.size > 1:
            # A launcher tells only the pid of a process that dies.
            print(f"{label}: {', '.join(map(str, members))}", flush=True)
        with termination() as interrupted, process_group(device, mpi) as communicator:
            _train(options, device, Counting(communicator), interrupted)


def _train(
    options: Namespace, device: torch.device, communicator: Counting, interrupted: Callable[[], bool]
) -> None:
    spec = read_spec(options.spec, TrainingSpec)
    if options.tuning is not None:
        chosen = Artifact.open(options.tuning, "tuning").facts_as(TuningFacts).values
        spec = spec.model_copy(update={"run": spec.run.with_values(chosen)})
    dataset = Artifact.open(options.dataset, "dataset", contents=communicator.rank == 0)
    training = samples_of(dataset, "train", device, spec.run.train_samples)
    validation = samples_of(dataset, "validation", device)
    model = model_of(spec.model, dataset, options.seed).to(device)
    recipe = spec.run.recipe()
    n_steps = plan(recipe, n_samples=len(training), n_processes=communicator.size).n_steps
    # The continuation of a checkpoint depends only on these values, and on the number of processes only by rounding, so
    # a job may continue with another number. The result is then no longer bit-equal to that of an undisturbed run, but
    # differs as two runs with different numbers of processes do; docs/limits.md says how much.
    identity = {
        "spec": spec.model_dump(mode="json"),
        "seed": options.seed,
        "code": options.code,
        "dataset": dataset.manifest["files"],
    }
    checkpoint = CheckpointFolder.of(options.checkpoints, identity)
    label = f"{options.run}, seed {options.seed}"
    with locked(checkpoint, label, device, communicator, interrupted):
        found = agreed_checkpoint(checkpoint, device, communicator)
        scalars = found.scalars if found else {}
        history = [EpochRecord(**record) for record in scalars.get(TRAINED, scalars.get("history", []))]
        reporter = Reporter(label, ProgressLine(label, n_steps), checkpoint, communicator.rank == 0, history)
        if reporter.speaks:
            where = f"goes on at step {found.step}" if found else "starts"
            print(
                f"{label}: {where}; processes: {communicator.size}, threads: {torch.get_num_threads()}, "
                f"device: {device}"
            )
        judged = {"train": training, "validation": validation}
        if spec.test:
            judged["test"] = samples_of(dataset, "test", device)
        try:
            if found and TRAINED in found.scalars:
                model.load_state_dict(found.tensors)
            else:
                with reporter.watched(options.curves, tensorboard=options.tensorboard):
                    train(
                        model,
                        recipe,
                        training,
                        validation,
                        seed=options.seed,
                        communicator=communicator,
                        state=found,
                        on_checkpoint=reporter.on_checkpoint,
                        checkpoint_steps=options.checkpoint_steps,
                        on_start=reporter.on_start,
                        on_epoch=reporter.on_epoch,
                        on_step=reporter.on_step,
                        interrupted=interrupted,
                    )
                reporter.on_checkpoint(_trained(model, reporter.history, n_steps))
            final = {}
            for name, samples in judged.items():
                _stop_if(interrupted, device, communicator)
                final[name] = evaluate(model, samples, communicator=communicator)
            _stop_if(interrupted, device, communicator)
        except Interrupted as stop:
            raise Interrupted(
                f"{label}: {stop}; checkpoint in {checkpoint.folder}, start the same job again to go on"
            ) from None
        except DivergenceError as divergence:
            # A diverged seed is a result of a study, which continues with the other seeds.
            if reporter.speaks:
                _write(options, spec, model, reporter.history, communicator, failure=str(divergence))
                checkpoint.remove()
                print(f"{label}: diverged, so that there is no network: {divergence}")
            return
        if reporter.speaks:
            flatness = measure_sharpness(model, training[:SHARPNESS_SAMPLES], seed=options.seed)
            scores = {name: Score(loss=score.loss, accuracy=score.accuracy) for name, score in final.items()}
            _write(options, spec, model, reporter.history, communicator, scores=scores, flatness=flatness)
            checkpoint.remove()
            name, score = list(final.items())[-1]
            print(
                f"{label}: {name} accuracy {score.accuracy:.4f}, loss {score.loss:.4f}, "
                f"largest curvature {flatness.largest_eigenvalue:.3g}"
            )


def _trained(model: Classifier, history: History, step: int) -> State:
    """Return the state to continue from after the last step, when the network is only to be judged."""
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return State(tensors, {"step": step, TRAINED: [asdict(record) for record in history]})


def _stop_if(interrupted: Callable[[], bool], device: torch.device, communicator: Communicator) -> None:
    """Stop on all processes if any of them was asked to stop."""
    asked = torch.tensor([float(interrupted())], device=device)
    communicator.all_reduce(asked)
    if asked:
        raise Interrupted("stopped on request after the last step, before all was measured")


def _write(
    options: Namespace,
    spec: TrainingSpec,
    model: Classifier,
    history: History,
    communicator: Counting,
    *,
    scores: dict[str, Score] | None = None,
    flatness: Sharpness | None = None,
    failure: str = "",
) -> None:
    device = next(model.parameters()).device
    with written(options, "network", spec) as draft:
        if not failure:
            weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
            draft.save_tensors("weights", weights)
        draft.save_table("history", history, without=("layers",))
        draft.save_json("layers", history[-1].layers if history else {})
        draft.facts = NetworkFacts(
            run=options.run,
            seed=options.seed,
            processes=communicator.size,
            messages={
                name: Messages(bytes=n_bytes, calls=communicator.n_calls[name])
                for name, n_bytes in communicator.n_bytes.items()
            },
            threads=torch.get_num_threads(),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            n_parameters=sum(math.prod(parameter.shape) for parameter in model.parameters()),
            seconds=history[-1].seconds if history else 0.0,
            steps=history[-1].steps if history else 0,
            scores=scores or {},
            sharpness=Flatness.model_validate(flatness, from_attributes=True) if flatness else Flatness(),
            failure=failure,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
