"""Matrices of one's own points, kernels and right-hand sides, from the file to the page."""

import json
import re

import numpy as np
import pytest

from pipeline.artifacts.store import Artifact
from pipeline.config.loading import validate
from pipeline.errors import ConfigError
from pipeline.operations.paths import own_files

STAGES = (("points", "points"), ("compress", "operator"), ("solve", ""))


@pytest.fixture
def matrix(bench, monkeypatch):
    """Run a matrix from its section to the page; returns the exit codes."""
    monkeypatch.chdir(bench.folder)
    monkeypatch.syspath_prepend(str(bench.folder))

    def run(section):
        bench.write_specs({"study": "own", "matrices": {"mine": section}})
        inputs, codes = {}, []
        for stage, made in STAGES:
            spec = bench.folder / f"spec/{stage}/mine.json"
            codes.append(bench.run(stage, output=f"{stage}/mine", spec=spec, **inputs))
            if codes[-1]:
                return codes
            inputs[made] = bench.manifest(f"{stage}/mine")
        options = {"spec": bench.folder / "spec/report.json", "benchmarks": bench.folder / "benchmarks"}
        return [*codes, bench.run("report", **options)]

    return run


def solution(bench):
    return Artifact.open(bench.manifest("solve/mine"), "solution")


def page(bench):
    return (bench.folder / "report/index.html").read_text()


def test_rain_at_stations_is_predicted_and_mapped(bench, matrix):
    rng = np.random.default_rng(0)
    longitude, latitude = rng.uniform(5, 10, 300), rng.uniform(45, 48, 300)
    rain = 100 + 30 * np.sin(longitude) * np.cos(latitude)
    rows = "\n".join(
        f"S{i},{a},{b},{c}" for i, (a, b, c) in enumerate(zip(longitude, latitude, rain, strict=True))
    )
    (bench.folder / "stations.csv").write_text(f"name,lon,lat,mm\n{rows}\n")
    section = {
        "points": {
            "name": "file", "path": "stations.csv", "coordinates": ["lon", "lat"], "crs": "lonlat", "value": "mm",
            "unit": "mm",
        },
        "kernel": {"name": "rational_quadratic", "length_scale": 0.02, "alpha": 2},
        "nugget": 1e-4,
        "task": "kriging",
        "compress": {"tolerance": 1e-6},
    }  # fmt: skip
    assert matrix(section) == [0, 0, 0, 0]
    found = solution(bench).facts["result"]
    assert found["rmse"] < 0.2 * found["rmse_mean_predictor"]
    assert (found["unit"], found["quantity"], found["n_held_out"]) == ("mm", "mm", 30)
    grid = np.array(solution(bench).array("grid_longitude")), np.array(solution(bench).array("grid_latitude"))
    assert grid[0].min() == pytest.approx(longitude.min(), abs=0.2)
    assert grid[1].max() == pytest.approx(latitude.max(), abs=0.2)
    assert "Map of the predicted mm" in page(bench)


KERNEL = """
import torch

def bump(x, y):
    r = torch.cdist(x, y)
    return torch.exp(-r) * (1 + x[..., :, None, 0])
"""


def test_an_own_kernel_and_right_hand_side_give_the_solution_of_the_dense_system(bench, matrix):
    rng = np.random.default_rng(1)
    points, right = rng.random((257, 3)), rng.standard_normal((257, 2))
    np.save(bench.folder / "points.npy", points)
    np.save(bench.folder / "right.npy", right)
    (bench.folder / "own_kernels_of_a_test.py").write_text(KERNEL)
    section = {
        "points": {"name": "file", "path": "points.npy"},
        "kernel": {"name": "custom", "path": "own_kernels_of_a_test:bump"},
        "nugget": 1.0,
        "task": "solve",
        "right_hand_side": "right.npy",
        "compress": {"tolerance": 1e-8},
    }
    assert matrix(section) == [0, 0, 0, 0]
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    dense = np.exp(-distance) * (1 + points[:, :1]) + np.eye(257)
    expected = np.linalg.solve(dense, right)
    found = np.array(solution(bench).array("solution"))
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
    assert "The mine system is solved for the 2 right-hand sides right.npy" in page(bench)


@pytest.mark.parametrize(
    "kernel",
    [
        {"name": "yukawa", "decay": 2.0},
        {"name": "laplace_single_layer"},
        {"name": "matern", "length_scale": 0.5},
    ],
    ids=lambda kernel: kernel["name"],
)
def test_every_real_kernel_solves_for_the_values_of_a_file(bench, matrix, kernel):
    rng = np.random.default_rng(2)
    points = rng.random((131, 3))
    np.savez(bench.folder / "points.npz", x=points, v=points[:, 0])
    section = {
        "points": {"name": "file", "path": "points.npz", "value": "v", "held_out": 0},
        "kernel": kernel,
        "nugget": 10.0,
        "task": "solve",
        "compress": {"tolerance": 1e-6},
    }
    assert matrix(section) == [0, 0, 0, 0]
    assert solution(bench).facts["solve"]["exact_residual"] < 1e-5
    assert solution(bench).facts["result"]["right_hand_side"] == "values at the points"


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((4,), r"holds float64 of shape \(4,\); wanted real numbers of shape \(5,\)"),
        ((5, 1, 1), "wanted real numbers"),
    ],
)
def test_a_right_hand_side_that_does_not_fit_is_one_line(bench, matrix, capsys, shape, words):
    np.save(bench.folder / "points.npy", np.random.default_rng(3).random((5, 2)))
    np.save(bench.folder / "right.npy", np.ones(shape))
    section = {
        "points": {"name": "file", "path": "points.npy"},
        "kernel": {"name": "matern", "length_scale": 1.0},
        "task": "solve",
        "right_hand_side": "right.npy",
    }
    assert matrix(section) == [0, 0, 2]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: matrices.mine: right_hand_side: right.npy: ")
    assert re.search(words, line)


FILE = {"name": "file", "path": "gone.csv", "value": "v"}
MATERN = {"name": "matern", "length_scale": 1.0}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"points": {"name": "file", "path": "x.npy"}, "kernel": MATERN, "task": "kriging"},
         "task 'kriging' needs points.value, and points.held_out above 0"),
        ({"points": FILE, "kernel": {"name": "yukawa"}, "task": "kriging"}, "task 'kriging' needs a covariance"),
        ({"points": FILE, "kernel": MATERN, "task": "kriging", "right_hand_side": "b.npy"},
         "right_hand_side belongs to task 'solve', and only to it"),
        ({"points": FILE, "kernel": {"name": "custom", "path": "no_such_module:f"}, "task": "solve"},
         r"matrices.mine.kernel: path 'no_such_module:f' cannot be imported \(No module named 'no_such_module'\)"),
        ({"points": FILE, "kernel": {"name": "custom", "path": "math.pi"}, "task": "solve"},
         "path must be a module and a name in it"),
        ({"points": FILE, "kernel": {"name": "custom", "path": "math:pi"}, "task": "solve"}, "no function, but float"),
        ({"points": FILE | {"crs": "utm"}, "kernel": MATERN, "task": "kriging"},
         "points.crs: must be plane, lonlat or a code such as EPSG:25832, found 'utm'"),
        ({"points": FILE | {"coordinates": []}, "kernel": MATERN, "task": "kriging"}, "points.coordinates: must have"),
    ],
)  # fmt: skip
def test_own_data_that_does_not_fit_is_refused_before_anything_runs(section, words):
    with pytest.raises(ConfigError, match=words):
        validate({"study": "own", "matrices": {"mine": section}})


def test_a_missing_file_is_named_with_its_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = {"points": FILE, "kernel": MATERN, "task": "kriging"}
    study = validate({"study": "own", "matrices": {"mine": section}})
    with pytest.raises(
        ConfigError, match=r"matrices.mine.points.path: there is no file gone.csv; paths start at /"
    ):
        own_files(study.files())
    (tmp_path / "gone.csv").write_text("x,v\n")
    own_files(study.files())
    assert json.dumps(study.files()) == '{"matrices.mine.points.path": "gone.csv"}'
