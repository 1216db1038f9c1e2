"""Stage `train`: one network, one seed, on the processes that started together."""

import math
import resource
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from pipeline.artifacts.checkpoints import CheckpointFolder
from pipeline.artifacts.store import Artifact, create
from pipeline.errors import ConfigError, ConvergenceError
from pipeline.models import Classifier, build_model
from pipeline.runtime.clock import Progress
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.device import choose_device
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.provenance import provenance
from pipeline.runtime.torch_group import torch_group
from pipeline.stages.shared import read_samples, read_spec
from pipeline.training import (
    SMOOTHINGS,
    EpochRecord,
    History,
    KFACSettings,
    Recipe,
    Samples,
    State,
    evaluate,
    train,
)


def recipe_of(run: Mapping[str, Any]) -> Recipe:
    """Turn a run of a study into the recipe that training understands."""
    method = dict(run["optimizer"])
    name = method.pop("name")
    common = {key: method.pop(key) for key in ("lr", "momentum", "weight_decay")}
    smoothing = []
    for entry in run["smoothing"]:
        options = dict(entry)
        smoothing.append(SMOOTHINGS[options.pop("name")](**options))
    return Recipe(
        optimizer=name,
        **common,
        **{key: run[key] for key in ("batch_size", "epochs", "warmup_epochs", "micro_batch")},
        smoothing=tuple(smoothing),
        kfac=KFACSettings(**method) if name == "kfac" else None,
    )


def model_of(spec: Mapping[str, Any], dataset: Artifact, seed: int) -> Classifier:
    """Build the study's network for a data set, initialized by seed."""
    options = dict(spec)
    _, height, width = dataset.array("train_images").shape
    return build_model(
        options.pop("name"),
        input_shape=(1, height, width),
        n_classes=len(dataset.facts["classes"]),
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


def run(options: Namespace) -> None:
    """Train, going on from a checkpoint if a former job left one, and judge the result on the test split once."""
    device = choose_device(read_spec(options.spec)["device"], MpiCommunicator().local_rank)
    with torch_group("nccl" if device.type == "cuda" else "gloo") as communicator:
        _train(options, device, communicator)


def _train(options: Namespace, device: torch.device, communicator: Communicator) -> None:
    spec = read_spec(options.spec)
    dataset = Artifact.open(options.dataset, "dataset")
    label = f"{options.run}, seed {options.seed}"
    training, validation, test = (
        Samples(*(part.to(device) for part in (samples.images, samples.labels)))
        for samples in (read_samples(dataset, name) for name in ("train", "validation", "test"))
    )
    model = model_of(spec["model"], dataset, options.seed).to(device)
    recipe = recipe_of(spec["run"])
    # What follows from a checkpoint depends on these alone, and on the number of processes by rounding.
    checkpoint = CheckpointFolder.of(
        options.checkpoints,
        {
            "spec": spec,
            "seed": options.seed,
            "code": options.code,
            "dataset": dataset.manifest["files"],
            "processes": communicator.size,
        },
    )
    is_first = communicator.rank == 0
    found = checkpoint.load()
    done_before = found[1]["step"] if found else 0
    if is_first:
        where = f"goes on at step {done_before}" if found else "starts"
        print(f"{label}: {where}, {communicator.size} processes, {device}, {torch.get_num_threads()} threads")
    progress = Progress(
        label, recipe.epochs * -(-len(training) // recipe.batch_size), done_before=done_before
    )

    def on_step(step: int, n_steps: int, loss: float) -> None:
        if is_first:
            progress.update(step, f"loss {loss:.3f}")

    def on_epoch(record: EpochRecord) -> None:
        if is_first:
            print(
                f"{label}: epoch {record.epoch:3d}  {record.seconds:7.1f} s  loss {record.train_loss:.4f}  "
                f"accuracy {record.train_accuracy:.4f}  validation loss {record.validation_loss:.4f}  "
                f"accuracy {record.validation_accuracy:.4f}",
                flush=True,
            )

    def on_checkpoint(state: State) -> None:
        if is_first:
            checkpoint.save(state.tensors, state.scalars)

    try:
        history = train(
            model,
            recipe,
            training,
            validation,
            seed=options.seed,
            communicator=communicator,
            state=State(*found) if found else None,
            on_checkpoint=on_checkpoint,
            checkpoint_steps=spec["checkpoint_steps"],
            on_epoch=on_epoch,
            on_step=on_step,
        )
    except ConvergenceError as error:
        checkpoint.remove()
        raise ConvergenceError(f"training run {label}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"training.runs.{options.run}: {error}") from error
    final = {
        name: evaluate(model, samples, communicator=communicator)
        for name, samples in (("train", training), ("validation", validation), ("test", test))
    }
    if is_first:
        scores = {name: {"loss": score.loss, "accuracy": score.accuracy} for name, score in final.items()}
        _write(options, spec, model, history, scores, communicator.size)
        checkpoint.remove()
        print(f"{label}: test accuracy {scores['test']['accuracy']:.4f}, loss {scores['test']['loss']:.4f}")


def _write(
    options: Namespace,
    spec: Mapping[str, Any],
    model: Classifier,
    history: History,
    scores: Mapping[str, Mapping[str, float]],
    n_processes: int,
) -> None:
    with create(options.output, kind="network", spec=spec, provenance=provenance(options.code)) as draft:
        draft.save_tensors("weights", {name: tensor.cpu() for name, tensor in model.state_dict().items()})
        draft.save_table("history", [asdict(record) for record in history])
        draft.facts |= {
            "run": options.run,
            "seed": options.seed,
            "processes": n_processes,
            "n_parameters": sum(math.prod(parameter.shape) for parameter in model.parameters()),
            "seconds": history[-1].seconds if history else 0.0,
            "steps": history[-1].steps if history else 0,
            "scores": scores,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
