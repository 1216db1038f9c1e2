"""A network of somebody's own: from an ONNX file and arrays to timings, without a study."""

import functools
import hashlib
import itertools
import json
import re
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from pipeline.__main__ import main
from pipeline.artifacts.store import Artifact
from pipeline.config.loading import validate
from pipeline.data.samples import noise
from pipeline.errors import ConfigError
from pipeline.models import packaged
from pipeline.precision import Sampling
from pipeline.stages import time_layers
from pipeline.stages.parts import collected


@pytest.fixture
def own(tmp_path):
    """A small network in a file, samples and labels, and a spec for quick timings."""
    generator = np.random.default_rng(0)

    def constant(name, *shape):
        return numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], transB=1, name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [constant("w1", 16, 2, 3, 3), constant("b1", 16), constant("w2", 3, 16), constant("b2", 3)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "own.onnx"))
    np.save(tmp_path / "x.npy", generator.standard_normal((20, 2, 8, 8)).astype(np.float32))
    np.save(tmp_path / "labels.npy", generator.integers(0, 3, 20))
    np.save(tmp_path / "wrong.npy", np.full(20, 3))
    quick = {"batch_sizes": [2], "min_samples": 5, "modes": ["warm"], "device": "cpu"}
    (tmp_path / "spec.json").write_text(json.dumps(quick))
    return tmp_path


def convert(folder, **options):
    words = ["convert", "--output", str(folder / "half/manifest.json")]
    for name, value in options.items():
        words += [f"--{name}", str(folder / value)]
    return main(words)


def test_a_file_and_arrays_are_converted_and_timed(own):
    assert convert(own, onnx="own.onnx", inputs="x.npy", labels="labels.npy") == 0
    converted = Artifact.open(own / "half/manifest.json", "half_network")
    assert [layer["name"] for layer in converted.json("layers")] == ["conv", "g", "head"]
    assert converted.facts["accuracy"]["n_samples"] == 10  # the other half calibrates
    assert converted.facts["run"] == "own"
    words = ["time_layers", "--network", str(own / "half/manifest.json"), "--inputs", str(own / "x.npy")]
    words += ["--spec", str(own / "spec.json"), "--output", str(own / "times/manifest.json")]
    assert main(words) == 0
    timed = Artifact.open(own / "times/manifest.json", "timings")
    assert [row["layer"] for row in timed.json("timings")] == ["conv", "g", "head"]
    plan = timed.json("plans")["2"]
    assert plan["digest"] == converted.json("plan")["digest"]
    assert timed.facts["verification"]["2"]["points"] is None
    found = timed.json("tests")["2"]
    assert [error["layer"] for error in found["errors"]] == ["conv", "g", "head"]
    assert found["accuracy"] is found["predictions"] is None  # no labels were given
    words[1:1] = ["--labels", str(own / "labels.npy")]
    assert main(words) == 0
    accuracy = Artifact.open(own / "times/manifest.json", "timings").facts["accuracy"]["2"]
    assert accuracy["n_samples"] == 10
    assert accuracy["fp32"] == converted.facts["accuracy"]["fp32"]


def test_the_last_line_of_a_timing_is_its_result_and_disturbances_are_a_warning(own, monkeypatch, capsys):
    # Every sample is disturbed: the core was taken away between any two looks.
    switches = itertools.count()
    monkeypatch.setattr(time_layers, "Sampling", functools.partial(Sampling, switches=lambda: next(switches)))
    assert convert(own, onnx="own.onnx", inputs="x.npy") == 0
    words = ["time_layers", "--network", str(own / "half/manifest.json"), "--inputs", str(own / "x.npy")]
    words += ["--spec", str(own / "spec.json"), "--output", str(own / "times/manifest.json")]
    capsys.readouterr()
    assert main(words) == 0
    *_, warning, result = capsys.readouterr().out.strip().splitlines()
    assert re.fullmatch(r"warning: 30 samples that other work disturbed count, .*", warning)
    assert re.fullmatch(r"own: \d+\.\d\dx as fast at batch 2; error at most [\d.e-]+", result)


def test_noise_is_known_by_its_numbers_and_real_samples_are_not_called_noise(own):
    np.save(own / "noise.npy", noise((20, 2, 8, 8)))
    for inputs, generated in (("noise.npy", True), ("x.npy", False)):
        assert convert(own, onnx="own.onnx", inputs=inputs) == 0
        facts = Artifact.open(own / "half/manifest.json", "half_network").facts
        assert facts["generated_inputs"] is generated


def test_photographs_for_a_file_are_refused_on_the_command_line_too(own, capsys):
    words = ["convert", "--output", str(own / "half/manifest.json"), "--onnx", str(own / "own.onnx")]
    assert main([*words, "--inputs", "package:photographs"]) == 2
    assert (
        "inputs: must be a .npy file, or package:photographs for a package's network"
        in capsys.readouterr().err
    )


def test_without_labels_there_is_no_accuracy(own):
    assert convert(own, onnx="own.onnx", inputs="x.npy") == 0
    assert Artifact.open(own / "half/manifest.json", "half_network").facts["accuracy"] is None


def test_the_same_network_is_converted_to_the_same_files_again(own):
    digests = []
    for _ in range(2):
        assert convert(own, onnx="own.onnx", inputs="x.npy", labels="labels.npy") == 0
        digests.append(Artifact.open(own / "half/manifest.json", "half_network").manifest["files"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "convert needs --weights and --dataset, .* or --onnx and --inputs"),
        ({"onnx": "own.onnx"}, "convert --onnx needs --inputs"),
        ({"onnx": "gone.onnx", "inputs": "x.npy"}, "gone.onnx: not a readable ONNX file"),
        ({"onnx": "own.onnx", "inputs": "spec.json"}, "spec.json: not a readable array"),
        ({"onnx": "own.onnx", "inputs": "empty.npy"}, "empty.npy: holds float32 of shape"),
        (
            {"onnx": "own.onnx", "inputs": "x.npy", "labels": "wrong.npy"},
            r"wrong\.npy: class 3 is none of the network's 3 outputs; wanted 0 to 2",
        ),
        ({"onnx": "own.onnx", "inputs": "x.npy", "labels": "x.npy"}, "wanted one for each of 20 samples"),
        (
            {"onnx": "own.onnx", "inputs": "wide.npy"},
            r"takes inputs of shape \(n, 2, 8, 8\); found \(n, 5, 8, 8\)",
        ),
        ({"onnx": "own.onnx", "inputs": "nan.npy"}, "nan.npy: holds NaN or infinity"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_one_line(own, options, words, capsys):
    np.save(own / "empty.npy", np.zeros((0, 2, 8, 8), np.float32))
    np.save(own / "wide.npy", np.zeros((4, 5, 8, 8), np.float32))
    np.save(own / "nan.npy", np.full((4, 2, 8, 8), np.nan, np.float32))
    assert convert(own, **options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(words, line), line


@pytest.mark.parametrize(
    ("inputs", "spec", "output", "words"),
    [
        (
            "wide.npy",
            {},
            "times",
            r"wide\.npy: holds samples of shape \(5, 8, 8\); wanted \(2, 8, 8\), which",
        ),
        ("x.npy", {"batch_sizes": [0]}, "times", r"spec\.json: batch_sizes"),
        ("x.npy", {"batches": [1]}, "times", r"spec\.json: batches: unknown key 'batches'"),
        ("x.npy", {}, "x.npy/times", "no folder can be made there"),
        ("x.npy", {}, "half", r"half/manifest\.json: is a folder"),
    ],
)
def test_timing_that_cannot_be_done_is_one_line(own, inputs, spec, output, words, capsys):
    np.save(own / "wide.npy", np.zeros((4, 5, 8, 8), np.float32))
    assert convert(own, onnx="own.onnx", inputs="x.npy") == 0
    network = own / "half"
    if output == "half":
        network = own / "network"
        (own / "half").rename(network)
        (own / "half/manifest.json").mkdir(parents=True)
    quick = {"batch_sizes": [1], "min_samples": 5, "modes": ["warm"], "device": "cpu"}
    (own / "spec.json").write_text(json.dumps(quick | spec))
    words_given = ["time_layers", "--network", str(network / "manifest.json"), "--inputs", str(own / inputs)]
    words_given += ["--spec", str(own / "spec.json"), "--output", str(own / output / "manifest.json")]
    assert main(words_given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(words, line), line


def test_labels_of_other_networks_are_refused_by_the_name_of_their_file_before_anything_is_timed(own, capsys):
    assert convert(own, onnx="own.onnx", inputs="x.npy") == 0
    words = ["time_layers", "--network", str(own / "half/manifest.json"), "--inputs", str(own / "x.npy")]
    words += ["--labels", str(own / "wrong.npy"), "--output", str(own / "times/manifest.json")]
    assert main(words) == 2
    text = capsys.readouterr().err
    assert re.search(
        r"/wrong\.npy: class 3 is none of the network's 3 outputs; wanted 0 to 2$", text.strip()
    ), text


def test_timing_without_samples_says_which_options_give_them(own, capsys):
    assert convert(own, onnx="own.onnx", inputs="x.npy") == 0
    network = str(own / "half/manifest.json")
    assert main(["time_layers", "--network", network, "--output", str(own / "times/manifest.json")]) == 2
    assert "needs --dataset" in capsys.readouterr().err


@pytest.mark.parametrize("disturbed", [False, True])
def test_networks_alone_are_a_study_from_the_file_to_the_page(own, bench, monkeypatch, disturbed):
    monkeypatch.chdir(own)
    np.save("x.npy", noise((20, 2, 8, 8)))
    monkeypatch.setattr(collected, "ran_alone", lambda *_: True)
    switches = itertools.count() if disturbed else itertools.repeat(0)
    monkeypatch.setattr(time_layers, "Sampling", functools.partial(Sampling, switches=lambda: next(switches)))
    section = {"path": "own.onnx", "inputs": "x.npy", "labels": None, "budget": {"relative_error": 1.0e-2}}
    precision = {"networks": {"detector": section}, "batch_sizes": [1], "min_samples": 5, "modes": ["warm"]}
    bench.write_specs({"study": "networks", "precision": precision | {"device": "cpu"}})
    spec = bench.folder / "spec"
    assert bench.run("convert", output="convert/detector", spec=spec / "networks/detector.json") == 0
    network = bench.manifest("convert/detector")
    assert (
        bench.run("time_layers", output="time_layers/detector", spec=spec / "precision.json", network=network)
        == 0
    )
    options = {"spec": spec / "report.json", "benchmarks": bench.folder / "benchmarks"}
    assert bench.run("report", **options) == 0
    tests = Artifact.open(bench.manifest("time_layers/detector"), "timings").json("tests")
    assert all(error["relative_error"] <= 1e-2 for error in tests["1"]["errors"])
    page = (bench.folder / "report/index.html").read_text()
    assert 'id="bits"' in page
    assert 'id="steps"' not in page
    assert "conv" in page
    metrics = json.loads((bench.folder / "report/metrics.json").read_text())
    assert list(metrics["precision"]) == ["detector"]
    assert metrics["training"] == {}
    assert metrics["precision"]["detector"]["alone"] is not disturbed
    assert ("Other work ran on the same machine meanwhile" in page) == disturbed
    assert "for inputs that are noise" in page
    for row in metrics["precision"]["detector"]["timings"]:
        assert f", speedup {row['predicted_speedup']:.2f}x)" in row["reason"]


def test_a_network_that_is_no_onnx_file_is_one_line_about_its_key(own, bench, monkeypatch, capsys):
    monkeypatch.chdir(own)
    (own / "bad.onnx").write_bytes(b"PK")
    networks = {"detector": {"path": "bad.onnx", "inputs": "x.npy"}}
    bench.write_specs({"study": "networks", "precision": {"networks": networks}})
    spec = bench.folder / "spec/networks/detector.json"
    assert bench.run("convert", output="convert/detector", spec=spec) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: precision.networks.detector: bad.onnx")


@pytest.mark.parametrize(
    ("network", "runs", "words"),
    [
        ({"path": "a.onnx"}, {}, "precision.networks.mine.inputs: missing"),
        (
            {"path": "a.onnx", "inputs": "x.npy", "budget": {"relative_error": 0}},
            {},
            "relative_error: must be greater",
        ),
        (
            {"path": "a.onnx", "inputs": "x.npy", "budgets": {}},
            {},
            "unknown key 'budgets'; did you mean 'budget'",
        ),
        (
            {"path": "package:resnet", "inputs": "x.npy"},
            {},
            "mine.path: no package has a network 'resnet'; known: efficientnet_lite0",
        ),
        (
            {"path": "a.onnx", "inputs": "package:photographs"},
            {},
            "mine.inputs: must be a .npy file, or package:photographs for a package's network",
        ),
        (
            {"path": "package:efficientnet_lite0", "inputs": "package:photographs", "labels": "y.npy"},
            {},
            "mine.labels: photographs have none; leave labels null",
        ),
        (
            {"path": "a.onnx", "inputs": "x.npy"},
            {"mine": {"optimizer": {"name": "sgd", "lr": 0.1}, "batch_size": 8, "epochs": 1}},
            "precision.networks.mine: is a training run's name too",
        ),
    ],
)
def test_networks_that_do_not_fit_are_refused_before_anything_runs(network, runs, words):
    study = {"study": "own", "precision": {"networks": {"mine": network}}, "training": {"runs": runs}}
    with pytest.raises(ConfigError, match=words):
        validate(study)


def test_files_of_a_network_are_inputs_by_their_keys():
    network = {"path": "a.onnx", "inputs": "x.npy", "labels": "y.npy"}
    study = validate({"study": "own", "precision": {"networks": {"mine": network}}})
    assert study.files() == {
        f"precision.networks.mine.{key}": network[key] for key in ("path", "inputs", "labels")
    }


def test_a_network_of_a_package_goes_from_its_weights_to_timings_of_its_own_section(
    bench, monkeypatch, tmp_path
):
    """A small one stands for the package's, whose conversion takes half a minute."""
    torch.manual_seed(0)

    def build():
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
        )

    weights = tmp_path / "weights.pth"
    torch.save(build().state_dict(), weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    entry = SimpleNamespace(name=weights.name, locate=lambda: weights)
    monkeypatch.setattr(packaged, "files", lambda name: [entry] if name == "small" else None)
    small = packaged.Packaged("small==1.0", weights.name, digest, build, packaged.centered, size=16)
    monkeypatch.setitem(packaged.PACKAGED, "small", small)
    section = {
        "path": "package:small",
        "inputs": "package:photographs",
        "batch_sizes": [2],
        "modes": ["warm"],
    }
    bench.write_specs(
        {"study": "own", "precision": {"networks": {"mine": section}, "min_samples": 5, "device": "cpu"}}
    )
    spec = bench.folder / "spec"
    assert "batch_sizes" in json.loads((spec / "networks/mine.json").read_text())
    assert bench.run("convert", output="convert/mine", spec=spec / "networks/mine.json") == 0
    network = bench.manifest("convert/mine")
    assert Artifact.open(network, "half_network").facts["file_bytes"]["fp32"] == weights.stat().st_size
    assert (
        bench.run("time_layers", output="time_layers/mine", spec=spec / "precision.json", network=network)
        == 0
    )
    timed = Artifact.open(bench.manifest("time_layers/mine"), "timings")
    assert {(row["batch"], row["mode"]) for row in timed.json("timings")} == {(2, "warm")}
