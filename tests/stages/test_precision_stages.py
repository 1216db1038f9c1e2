import json
import shutil
from dataclasses import asdict

import pytest

from pipeline.artifacts.store import Artifact
from pipeline.precision import HalfNetwork
from pipeline.stages.parts.images import read_images

MIN_SAMPLES = 5  # of the study


def test_conversion_halves_the_file_and_reports_every_layer(trained):
    converted = Artifact.open(trained.manifest("convert"), "half_network")
    sizes = converted.facts["file_bytes"]
    # Weights halve; the plan, biases and headers are some thousand bytes.
    assert sizes["fp16"] <= sizes["fp32"] / 2 + 12_000
    layers = converted.json("layers")
    assert [layer["name"] for layer in layers if layer["kind"] == "conv2d"] == [
        "body.conv1",
        "body.conv2",
        "body.conv3",
    ]
    # One rounding to 11 bits: the error of a weight is uniform in its last place, about 73 dB below it.
    assert all(65 < layer["sqnr_db"] < 85 for layer in layers)
    accuracy = converted.facts["accuracy"]
    assert abs(accuracy["fp32"] - accuracy["fp16"]) * accuracy["n_samples"] <= accuracy["n_changed"] + 0.5


@pytest.fixture(scope="module")
def timed(trained):
    """The layers' times, of two batch sizes."""
    inputs = {"network": trained.manifest("convert"), "dataset": trained.manifest("dataset")}
    assert trained.run("time_layers", spec=trained.folder / "spec/precision.json", **inputs) == 0
    return Artifact.open(trained.manifest("time_layers"), "timings")


def test_every_layer_is_timed_at_every_batch_size_with_a_reason(trained, timed):
    timings = timed.json("timings")
    layers = [
        layer["name"] for layer in Artifact.open(trained.manifest("convert"), "half_network").json("layers")
    ]
    assert [(row["layer"], row["batch"], row["mode"]) for row in timings] == [
        (layer, batch, mode) for batch in (1, 3) for mode in ("network", "warm", "cold") for layer in layers
    ]
    for row in timings:
        assert row["seconds_fp32"] > 0
        assert row["seconds_fp16"] > 0
        assert row["speedup"] == pytest.approx(row["seconds_fp32"] / row["seconds_fp16"])
        assert row["bound"]
        assert row["n_samples"] >= MIN_SAMPLES
        assert len(row["reason"].split()) > 5


def test_the_least_number_of_samples_binds_the_times_and_not_the_choice(trained, tmp_path, monkeypatch):
    taken = {"choose_routines": [], "time_layers": []}

    def spy(name):
        method = getattr(HalfNetwork, name)

        def recording(*arguments, sampling, **options):
            taken[name].append(sampling)
            return method(*arguments, sampling=sampling, **options)

        monkeypatch.setattr(HalfNetwork, name, recording)

    for name in taken:
        spy(name)
    spec = tmp_path / "precision.json"
    spec.write_text(json.dumps({"batch_sizes": [1], "modes": ["network"], "min_samples": 7}))
    inputs = {"network": trained.manifest("convert"), "dataset": trained.manifest("dataset")}
    assert trained.run("time_layers", output="seven", spec=spec, **inputs) == 0
    (choosing,), (timing,) = taken.values()
    assert (choosing.n_samples, timing.n_samples) == (7, 7)
    assert choosing.seconds_at_most == timing.seconds_at_most
    assert choosing.n_at_least < 7 <= timing.n_at_least


def test_a_network_without_its_complete_weights_is_refused_in_one_line(trained, tmp_path, capsys):
    former = tmp_path / "former"
    shutil.copytree(trained.manifest("convert").parent, former)
    (former / "complete.safetensors").unlink()
    manifest = json.loads((former / "manifest.json").read_text())
    del manifest["files"]["complete.safetensors"]
    (former / "manifest.json").write_text(json.dumps(manifest))
    inputs = {"network": former / "manifest.json", "dataset": trained.manifest("dataset")}
    assert trained.run("time_layers", output="refused", **inputs) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{former}: holds no complete.safetensors" in line
    assert "convert the network again" in line
    assert not trained.manifest("refused").exists()


def test_errors_and_answers_are_those_of_the_plans_that_were_timed(trained, timed):
    converted = Artifact.open(trained.manifest("convert"), "half_network")
    weights, complete = converted.tensors("weights"), converted.tensors("complete")
    images, labels = read_images(Artifact.open(trained.manifest("dataset"), "dataset"), "test")
    tests = timed.json("tests")
    assert set(tests) == {"1", "3"}
    for batch, found in tests.items():
        network = HalfNetwork.from_plan(timed.json("plans")[batch], weights, complete)
        wanted = [asdict(error) for error in network.layer_errors(images[:256])]
        assert found["errors"] == json.loads(json.dumps(wanted))
        accuracy = (network(images).argmax(dim=1) == labels).double().mean().item()
        assert found["accuracy"]["fp16"] == pytest.approx(accuracy)
        assert timed.facts["accuracy"][batch] == found["accuracy"]
        rows = [row for row in timed.json("candidates") if row["batch"] == int(batch)]
        for layer in network.layers:
            # Also at FP32 a candidate's weights have been rounded, by what the plan says.
            assert layer.rounding is None or all(
                row["error"] > layer.rounding.relative_error / 10
                for row in rows
                if row["layer"] == layer.name
            )
