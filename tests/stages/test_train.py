import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from pipeline.__main__ import main
from pipeline.artifacts import disk
from pipeline.artifacts.results.network import NetworkFacts
from pipeline.artifacts.store import Artifact
from pipeline.errors import ArtifactError, ConvergenceError, DivergenceError
from pipeline.runtime.communicator import run_in_threads
from pipeline.stages.parts.shared_checkpoint import agreed_checkpoint
from pipeline.training import evaluate, train


def test_a_network_comes_with_history_scores_and_origin(trained):
    network = Artifact.open(trained.manifest("train"), "network")
    assert [row["epoch"] for row in network.table("history")] == ["1", "2"]
    assert set(network.facts["scores"]) == {"train", "validation", "test"}
    assert network.facts["sharpness"]["n_samples"] == 128
    assert network.facts["messages"]["all_reduce"]["bytes"] > 0
    assert network.provenance.versions["torch"]
    assert not list((trained.folder / "checkpoints").iterdir())


def test_a_seed_that_diverges_is_a_result_that_names_step_and_layer_and_cannot_be_converted(
    bench, study, capsys
):
    study["training"]["runs"]["only"]["optimizer"]["lr"] = 1e30
    study["training"]["runs"]["only"]["warmup_epochs"] = 0
    bench.write_specs(study)
    bench.dataset()
    assert bench.run("train", **bench.train_options()) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("only, seed 0: diverged, so that there is no network: ")
    facts = Artifact.open(bench.manifest("train"), "network").facts_as(NetworkFacts)
    assert told.endswith(facts.failure)
    assert "is not finite at step " in facts.failure
    assert "body." in facts.failure or "head" in facts.failure
    assert facts.scores == {}
    assert not list((bench.folder / "checkpoints").iterdir())
    inputs = {"weights": bench.manifest("train"), "dataset": bench.manifest("dataset")}
    assert bench.run("convert", **inputs) == 2
    assert "training.runs.only: seed 0 diverged, so that there is no network" in capsys.readouterr().err


def test_processes_that_hold_different_weights_are_a_failure_and_no_result(bench, monkeypatch, capsys):
    def disagrees(*_, **__):
        raise ConvergenceError("process 1 holds other weights than process 0")

    monkeypatch.setattr("pipeline.stages.train.train", disagrees)
    bench.dataset()
    assert bench.run("train", **bench.train_options()) == 2
    assert "process 1 holds other weights" in capsys.readouterr().err
    assert not bench.manifest("train").exists()


@pytest.mark.mpi
def test_two_processes_train_the_same_network_as_one(bench, trained):
    bench.dataset()
    done = bench.mpiexec(2, *bench.arguments("train", **bench.train_options()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "processes: 2" in done.stdout
    two, one = (load_file(b.folder / "train/weights.safetensors") for b in (bench, trained))
    for name, weights in one.items():
        # Sums over processes are rounded in another order: 1e-5 of the weights' size.
        assert float((two[name] - weights).abs().max()) <= 1e-5 * max(float(weights.abs().max()), 1e-3)


@pytest.mark.mpi
def test_more_processes_than_samples_is_one_line(bench, study):
    study["training"]["runs"]["only"] |= {"batch_size": 2}
    bench.write_specs(study)
    bench.dataset()
    done = bench.mpiexec(3, *bench.arguments("train", **bench.train_options()))
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "training.runs.only, seed 0: 3 processes cannot share a batch of 2 samples" in errors[0]
    assert "Traceback" not in done.stderr


@pytest.mark.mpi
@pytest.mark.parametrize("n_processes", [1, 2])
def test_sigterm_leaves_a_checkpoint_and_the_same_job_goes_on_from_it(n_processes, bench, study):
    study["training"]["runs"]["only"]["epochs"] = 4000
    bench.write_specs(study)
    bench.dataset()
    arguments = [*bench.arguments("train", **bench.train_options()), "--checkpoint-steps", "100000"]
    command = bench.mpi_command(n_processes, *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        while "epoch" not in (line := job.stdout.readline()):
            assert line
        job.send_signal(signal.SIGTERM)
        out, errors = job.communicate(timeout=60)
    assert job.returncode == 75, out + errors
    told = [line for line in errors.splitlines() if line.startswith("interrupted: ")]
    assert len(told) == 1
    assert "only, seed 0: stopped on request after step " in told[0]
    assert len(list((bench.folder / "checkpoints").glob("*/checkpoint.json"))) == 1
    assert not bench.manifest("train").exists()
    step = told[0].split("after step ")[1].split()[0]
    # Another number of processes finds the same checkpoint.
    with subprocess.Popen(command[3:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        assert f"goes on at step {step}; processes: 1" in job.stdout.readline()
        job.kill()


@pytest.mark.parametrize("n_evaluations", [1, 3])
def test_sigterm_after_the_last_step_stops_and_the_same_job_only_measures(
    n_evaluations, bench, trained, monkeypatch, capsys
):
    calls = []

    def evaluate_and_ask(*arguments, **options):
        calls.append(1)
        if len(calls) == n_evaluations:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments, **options)

    bench.dataset()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stages.train.evaluate", evaluate_and_ask)
        assert bench.run("train", **bench.train_options()) == 75
    assert len(calls) == n_evaluations
    assert "only, seed 0: stopped on request after the last step" in capsys.readouterr().err
    assert not bench.manifest("train").exists()
    monkeypatch.setattr("pipeline.stages.train.train", lambda *_, **__: pytest.fail("trained once more"))
    assert bench.run("train", **bench.train_options()) == 0
    assert list((bench.folder / "checkpoints").iterdir()) == []
    done, undisturbed = (Artifact.open(b.manifest("train"), "network") for b in (bench, trained))
    for file in ("weights.safetensors", "layers.json"):
        assert done.manifest["files"][file] == undisturbed.manifest["files"][file]
    assert done.facts["scores"] == undisturbed.facts["scores"]
    assert [row["train_loss"] for row in done.table("history")] == [
        row["train_loss"] for row in undisturbed.table("history")
    ]


def test_processes_that_see_different_checkpoints_look_again_together(monkeypatch):
    @dataclass
    class Late:
        """What a node sees that shows a checkpoint at its third look."""

        n_looks: int
        folder: str = "checkpoints/x"

        def load(self):
            self.n_looks -= 1
            return None if self.n_looks > 0 else ({}, {"step": 7})

    def agreed(looks):
        return run_in_threads(
            2, lambda comm: agreed_checkpoint(Late(looks[comm.rank]), torch.device("cpu"), comm)
        )

    monkeypatch.setattr(disk.Patience, "pause", lambda _self: None)
    assert [state.step for state in agreed([0, 3])] == [7, 7]
    assert agreed([99, 99]) == [None, None]
    monkeypatch.setattr(disk, "SECONDS_TO_APPEAR", 0.0)
    with pytest.raises(ArtifactError, match=r"different checkpoints \(steps \[-1, 7\]\), 0 s later too"):
        agreed([0, 3])


def test_two_jobs_of_the_same_training_take_turns(bench):
    bench.dataset()
    command = bench.command(*bench.arguments("train", **bench.train_options()))
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [job.communicate(timeout=100)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert bench.manifest("train").exists()
    assert all("test accuracy" in output for output in outputs)


def test_the_epochs_before_a_divergence_are_kept(bench, monkeypatch):
    def diverges(*args, on_step, **options):
        def once(step, n_steps, loss):
            on_step(step, n_steps, loss)
            if step == 3:
                raise DivergenceError("the gradient or the loss is not finite at step 4")

        return train(*args, on_step=once, **options)

    monkeypatch.setattr("pipeline.stages.train.train", diverges)
    bench.dataset()
    arguments = [*bench.arguments("train", **bench.train_options()), "--checkpoint-steps", "1"]
    assert main(arguments) == 0
    network = Artifact.open(bench.manifest("train"), "network")
    assert [row["steps"] for row in network.table("history")] == ["2"]
    assert (network.facts["steps"], network.facts["scores"]) == (2, {})
    assert not list((bench.folder / "checkpoints").iterdir())


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_epoch_is_a_line_of_json_and_one_that_was_resumed_stands_once(bench, trained, monkeypatch):
    curves = bench.folder / "logs/seed0.jsonl"
    bench.dataset()

    def stops(*args, on_epoch, **options):
        def once(record):
            on_epoch(record)
            os.kill(os.getpid(), signal.SIGTERM)

        return train(*args, on_epoch=once, **options)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stages.train.train", stops)
        assert bench.run("train", **bench.train_options(), curves=curves) == 75
    assert [line["epoch"] for line in lines_of(curves)] == [1]
    assert bench.run("train", **bench.train_options(), curves=curves) == 0
    lines = lines_of(curves)
    rows = Artifact.open(trained.manifest("train"), "network").table("history")
    assert [line["step"] for line in lines] == [int(row["steps"]) for row in rows]
    assert [line["validation_loss"] for line in lines] == [float(row["validation_loss"]) for row in rows]


def test_tensorboard_reads_the_curves_of_a_training(bench):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    curves = bench.folder / "logs/seed0.jsonl"
    bench.dataset()
    assert bench.run("train", **bench.train_options(), curves=curves, tensorboard=1) == 0
    events = accumulator.EventAccumulator(str(curves.with_suffix(""))).Reload()
    found = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert found == [(line["step"], pytest.approx(line["train_loss"])) for line in lines_of(curves)]


def test_curves_for_a_tensorboard_that_is_not_installed_are_refused_in_one_line(bench, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    bench.dataset()
    options = {"curves": bench.folder / "logs/seed0.jsonl", "tensorboard": 1}
    assert bench.run("train", **bench.train_options(), **options) == 2
    assert "the package tensorboard is not installed; pip install tensorboard" in capsys.readouterr().err


def test_while_tuning_the_test_images_are_not_looked_at(bench, study):
    study["training"] |= {"test": False}
    study["training"]["runs"]["only"] |= {"epochs": 1, "train_samples": 70}
    bench.write_specs(study)
    bench.dataset()
    dataset = bench.folder / "dataset"
    for file in dataset.glob("test_*"):
        file.unlink()
    manifest = json.loads(bench.manifest("dataset").read_text())
    manifest["files"] = {
        name: entry for name, entry in manifest["files"].items() if not name.startswith("test_")
    }
    bench.manifest("dataset").write_text(json.dumps(manifest))
    assert bench.run("train", **bench.train_options()) == 0
    network = Artifact.open(bench.manifest("train"), "network")
    assert set(network.facts["scores"]) == {"train", "validation"}
    # 70 of the 128 images fall into two batches of at most 64.
    assert network.facts["steps"] == 2


def test_a_folder_of_color_images_trains_a_residual_network_with_augmentation(bench, study, tmp_path):
    rng = np.random.default_rng(0)
    for part, n in (("train", 9), ("test", 2)):
        for label, name in enumerate(("dark", "light")):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(120 * label, 120 * label + 100, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / part / name / f"{i}.png")
    study["dataset"] = {
        "name": "folder", "directory": str(tmp_path / "photos"), "image_size": 8, "channels": 3,
        "train_samples": 14, "validation_samples": 4,
    }  # fmt: skip
    study["model"] = {"name": "resnet", "width": 2, "blocks": [1, 1]}
    study["training"]["runs"]["only"] |= {
        "optimizer": {"name": "kfac", "lr": 0.05},
        "batch_size": 7,
        "augmentation": [{"name": "crop", "padding": 1}, {"name": "flip"}, {"name": "erasing"}],
        "rescaled_weights": True,
    }
    bench.write_specs(study)
    bench.dataset()
    assert bench.run("train", **bench.train_options()) == 0
    network = Artifact.open(bench.manifest("train"), "network")
    assert network.facts["steps"] == 4
    assert "body.stage2.block1.norm1" in network.json("layers")


class Activated(nn.Sequential):
    """A network with a layer that K-FAC does not know."""

    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.PReLU(8), nn.Linear(8, num_classes))


@pytest.mark.parametrize("name", ["kfac", "sgd"])
def test_what_k_fac_passes_through_is_told_at_the_start(name, bench, study, capsys):
    study["model"] = {"name": "imported", "path": f"{__name__}:Activated"}
    study["training"]["runs"]["only"]["optimizer"] = {"name": name, "lr": 0.05}
    bench.write_specs(study)
    bench.dataset()
    assert bench.run("train", **bench.train_options()) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "K-FAC" in line]
    passed = ["only, seed 0: K-FAC leaves these gradients as they are: body.2.weight"]
    assert told == (passed if name == "kfac" else [])


@pytest.mark.mpi
@pytest.mark.parametrize("victim", [0, 2])  # the one that writes, and another
def test_a_process_that_dies_ends_the_job_within_seconds_and_nothing_is_published(victim, bench, study):
    study["training"]["runs"]["only"]["epochs"] = 4000
    bench.write_specs(study)
    bench.dataset()
    command = bench.mpi_command(3, *bench.arguments("train", **bench.train_options()))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        members = job.stdout.readline()
        while "epoch" not in (line := job.stdout.readline()):
            assert line
        pid = int(members.split(f"process {victim} (pid ")[1].split()[0])
        os.kill(pid, signal.SIGKILL)
        out, errors = job.communicate(timeout=120)
    assert job.returncode != 0
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    if told:
        assert told[0].startswith(f"error: training.runs.only, seed 0: process {victim} (pid {pid} on ")
        assert "has died; nothing was published" in told[0]
    else:  # MPICH's launcher has killed the survivors before they could speak, and says so
        assert "Killed (signal 9)" in out
    assert len(set(told)) <= 1
    assert "Traceback" not in errors
    assert not bench.manifest("train").exists()
