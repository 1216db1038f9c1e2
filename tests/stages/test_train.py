import pytest
from safetensors.torch import load_file

from pipeline.artifacts.store import Artifact


def test_a_network_comes_with_history_scores_and_origin(trained):
    network = Artifact.open(trained.manifest("train"), "network")
    assert [row["epoch"] for row in network.table("history")] == ["1", "2"]
    assert set(network.facts["scores"]) == {"train", "validation", "test"}
    assert network.manifest["provenance"]["versions"]["torch"]
    assert not list((trained.folder / "checkpoints").glob("*/*"))


def test_divergence_names_run_step_and_layer(bench, study, capsys):
    study["training"]["runs"]["only"]["optimizer"]["lr"] = 1e30
    study["training"]["runs"]["only"]["warmup_epochs"] = 0
    bench.write_specs(study)
    bench.dataset()
    assert bench.run("train", **bench.train_options()) == 2
    error = capsys.readouterr().err
    assert "training.runs.only, seed 0" in error
    assert "step" in error
    assert "body." in error or "head" in error
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
