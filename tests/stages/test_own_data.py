"""Matrices of one's own points, kernels and right-hand sides, from the file to the page."""

import json
import re

import numpy as np
import pytest

from pipeline.artifacts.store import Artifact
from pipeline.config.loading import validate
from pipeline.errors import ConfigError
from pipeline.hmatrix import kernels
from pipeline.operations.paths import own_files


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
    found = bench.solution().facts["result"]
    assert found["rmse"] < 0.2 * found["rmse_mean_predictor"]
    assert (found["unit"], found["quantity"], found["n_held_out"]) == ("mm", "mm", 30)
    grid = (
        np.array(bench.solution().array("grid_longitude")),
        np.array(bench.solution().array("grid_latitude")),
    )
    assert grid[0].min() == pytest.approx(longitude.min(), abs=0.2)
    assert grid[1].max() == pytest.approx(latitude.max(), abs=0.2)
    assert "Map of the predicted mm" in bench.page()


KERNEL = """
import torch

def bump(x, y):
    r = torch.cdist(x, y)
    return torch.exp(-r) * (1 + x[..., :, None, 0])

def covariance(x, y):
    return torch.exp(-torch.cdist(x, y))
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
    found = np.array(bench.solution().array("solution"))
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
    assert "The mine system is solved for the 2 right-hand sides right.npy" in bench.page()


@pytest.mark.parametrize("task", ["product", "logdet", "sample", "solve"])
def test_an_own_covariance_answers_every_task_as_its_dense_matrix_does(bench, matrix, task):
    rng = np.random.default_rng(4)
    n = 257
    points, vectors = rng.random((n, 2)), rng.standard_normal((n, 3))
    np.save(bench.folder / "points.npy", points)
    np.save(bench.folder / "vectors.npy", vectors)
    (bench.folder / "own_kernels_of_a_test.py").write_text(KERNEL)
    section = {
        "points": {"name": "file", "path": "points.npy"},
        "kernel": {
            "name": "custom", "path": "own_kernels_of_a_test:covariance", "positive_definite": True
        },
        "nugget": 0.1,
        "task": task,
        "compress": {"tolerance": 1e-8},
    }  # fmt: skip
    more = {
        "product": {"vectors": "vectors.npy"},
        "solve": {"right_hand_side": "vectors.npy"},
        "sample": {"samples": 400},
    }
    assert matrix(section | more.get(task, {})) == [0, 0, 0, 0]
    dense = np.exp(-np.linalg.norm(points[:, None] - points[None], axis=2)) + 0.1 * np.eye(n)
    found = bench.solution()
    if task == "product":
        np.testing.assert_allclose(found.array("product"), dense @ vectors, atol=1e-5)
    elif task == "solve":
        np.testing.assert_allclose(found.array("solution"), np.linalg.solve(dense, vectors), atol=1e-4)
    elif task == "logdet":
        assert found.facts["result"]["log_determinant"] == pytest.approx(
            np.linalg.slogdet(dense)[1], abs=1e-3
        )
    else:
        # The sum of all values of a sample has variance s = 1'A1; its mean square over 400 samples, a deviation of
        # s sqrt(2/400).
        sums = np.square(np.array(found.array("samples")).sum(axis=0))
        assert sums.shape == (400,)
        assert sums.mean() == pytest.approx(dense.sum(), rel=5 * np.sqrt(2 / 400))


@pytest.mark.parametrize(
    "kernel",
    [
        {"name": "yukawa", "decay": 2.0},
        {"name": "laplace_single_layer"},
        {"name": "matern", "length_scale": 0.5},
        {"name": "thin_plate"},
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
    assert bench.solution().facts["solve"]["exact_residual"] < 1e-5
    assert bench.solution().facts["result"]["right_hand_side"] == "values at the points"


@pytest.mark.parametrize(
    ("dimension", "kernel", "words"),
    [
        (1, {"name": "yukawa"}, "Yukawa is defined in 2 and 3 dimensions, not in 1"),
        (
            4,
            {"name": "laplace_single_layer"},
            "LaplaceSingleLayer is defined in 2 and 3 dimensions, not in 4",
        ),
        (4, {"name": "thin_plate"}, "ThinPlate is defined in 1 to 3 dimensions, not in 4"),
        (
            2,
            {"name": "matern", "length_scale": [0.1, 0.1, 0.2]},
            "3 length scales do not fit points of 2 coordinates",
        ),
    ],
)
def test_a_kernel_of_other_dimensions_than_the_file_is_one_line(
    bench, matrix, capsys, dimension, kernel, words
):
    np.save(bench.folder / "points.npy", np.random.default_rng(5).random((9, dimension)))
    points = {"name": "file", "path": "points.npy"}
    assert matrix({"points": points, "kernel": kernel, "task": "product"}) == [0, 2]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: matrices.mine: kernel: {words}")
    assert line.endswith("; take another kernel, or other points.coordinates")


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
        ({"points": FILE, "kernel": MATERN, "task": "logdet", "compress": {"form": "low_rank"}},
         "'low_rank' needs task classification, solve or product, found 'logdet'"),
        ({"points": FILE, "kernel": MATERN, "task": "solve", "compress": {"form": "low_rank"}},
         "a nugget above 0; found kernel 'matern' and nugget 0.0"),
        ({"points": FILE, "kernel": MATERN, "task": "solve", "nugget": 0.1, "compress": {"form": "low_rank"},
          "factor": {"tolerance": 1e-2}}, "factor belongs to compress.form 'hierarchical': .* leave factor out"),
        ({"points": FILE, "kernel": {"name": "custom", "path": "no_such_module:f"}, "task": "solve"},
         r"matrices.mine.kernel: path 'no_such_module:f' cannot be imported \(No module named 'no_such_module'\)"),
        ({"points": FILE, "kernel": {"name": "custom", "path": "math.pi"}, "task": "solve"},
         "path must be a module and a name in it"),
        ({"points": FILE, "kernel": {"name": "custom", "path": "math:pi"}, "task": "solve"}, "no function, but float"),
        ({"points": FILE, "kernel": MATERN, "task": "solve", "predict": {"path": "x.csv"}},
         "predict belongs to task 'kriging'"),
        ({"points": FILE, "kernel": MATERN, "task": "kriging", "predict": {}}, "predict needs either a path or a grid"),
        ({"points": FILE, "kernel": MATERN, "task": "kriging", "predict": {"path": "x.csv", "grid": {"spacing": 1}}},
         "predict needs either a path or a grid"),
        ({"points": FILE | {"value": ["a", "b"]}, "kernel": MATERN, "task": "kriging", "fit": {}},
         "fit needs one points.value, found 2"),
        ({"points": FILE | {"unit": ["mm", "cm"]}, "kernel": MATERN, "task": "kriging"},
         "points.unit: 2 units for 1 value"),
        ({"points": FILE, "kernel": {"name": "yukawa", "length_scale": "fit"}, "task": "solve"}, "unknown key"),
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
        ConfigError, match=r"matrices.mine.points.path: gone.csv: there is no such file; paths start at /"
    ):
        own_files(study.files())
    (tmp_path / "gone.csv").write_text("x,v\n")
    own_files(study.files())
    assert json.dumps(study.files()) == '{"matrices.mine.points.path": "gone.csv"}'


def dense(points, kernel, nugget=0.0):
    block = kernels.from_dict(kernel)(points, points)
    return np.asarray(block) + nugget * np.eye(len(points))


MATRICES = {"compress": {"tolerance": 1e-8}, "nugget": 0.1}
SQUARE = {"name": "uniform_square", "n": 211}


def test_a_product_with_vectors_is_that_of_the_dense_matrix(bench, matrix):
    vectors = np.random.default_rng(6).standard_normal((211, 3))
    np.save(bench.folder / "x.npy", vectors)
    kernel = {"name": "matern", "nu": 0.5, "length_scale": 0.3}
    section = MATRICES | {"points": SQUARE, "kernel": kernel, "task": "product", "vectors": "x.npy"}
    assert matrix(section) == [0, 0, 0, 0]
    points = np.array(Artifact.open(bench.manifest("points/mine"), "points").array("points"))
    wanted = dense(points, kernel, 0.1) @ vectors
    found = np.array(bench.solution().array("product"))
    assert np.linalg.norm(found - wanted) < 1e-7 * np.linalg.norm(wanted)
    assert "The mine matrix is multiplied by x.npy in" in bench.page()


def test_a_log_determinant_is_that_of_the_dense_matrix(bench, matrix):
    kernel = {"name": "matern", "nu": 0.5, "length_scale": 0.3}
    points = {"name": "fibonacci_sphere", "n": 173}
    assert matrix(MATRICES | {"points": points, "kernel": kernel, "task": "logdet"}) == [0, 0, 0, 0]
    places = np.array(Artifact.open(bench.manifest("points/mine"), "points").array("points"))
    wanted = np.linalg.slogdet(dense(places, kernel, 0.1))[1]
    assert bench.solution().facts["result"]["log_determinant"] == pytest.approx(wanted, rel=1e-6)
    assert "The log-determinant of mine, 173\N{NO-BREAK SPACE}rows, is" in bench.page()


def test_samples_have_the_covariance_of_the_dense_matrix(bench, matrix):
    kernel = {"name": "matern", "nu": 1.5, "length_scale": 0.4}
    section = MATRICES | {"points": {"name": "uniform_cube", "n": 67}, "kernel": kernel, "task": "sample"}
    assert matrix(section | {"samples": 20_000, "seed": 3}) == [0, 0, 0, 0]
    places = np.array(Artifact.open(bench.manifest("points/mine"), "points").array("points"))
    samples = np.array(bench.solution().array("samples"))
    wanted = dense(places, kernel, 0.1)
    # An entry of the mean of 20,000 products has a variance of (a_ii a_jj + a_ij^2) / 20,000; 5 deviations for 2,278.
    deviation = np.sqrt((np.outer(np.diag(wanted), np.diag(wanted)) + wanted**2) / 20_000)
    assert np.all(np.abs(samples @ samples.T / 20_000 - wanted) < 5 * deviation)
    assert "20,000\N{NO-BREAK SPACE}samples of covariance mine are drawn (seed 3)" in bench.page()


def test_a_complex_kernel_solves_and_multiplies(bench, matrix):
    kernel = {"name": "helmholtz", "wavenumber": 3.0}
    points = {"name": "uniform_cube", "n": 149}
    section = {"points": points, "kernel": kernel, "nugget": 50.0, "compress": {"tolerance": 1e-7}}
    for task in ("solve", "product"):
        assert matrix(section | {"task": task}) == [0, 0, 0, 0]
        places = np.array(Artifact.open(bench.manifest("points/mine"), "points").array("points"))
        whole = dense(places, kernel, 50.0)
        wanted = np.linalg.solve(whole, np.ones(149)) if task == "solve" else whole @ np.ones(149)
        found = np.array(bench.solution().array("solution" if task == "solve" else "product"))
        assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("task", ["logdet", "sample"])
def test_a_kernel_that_is_no_covariance_has_no_such_answer(task):
    section = {"points": SQUARE, "kernel": {"name": "yukawa"}, "task": task}
    with pytest.raises(ConfigError, match=f"task '{task}' needs a covariance"):
        validate({"study": "own", "matrices": {"mine": section}})


WRONG_KERNELS = """
import numpy as np
import torch

def none(x, y): pass
def listed(x, y): return torch.cdist(x, y).tolist()
def numpys(x, y): return np.zeros((len(x), len(y)))
def single(x, y): return torch.exp(-torch.cdist(x, y)).float()
def whole(x, y): return torch.cdist(x, y).long()
def complexes(x, y): return torch.exp(1j * torch.cdist(x, y))
def flat(x, y): return torch.exp(-torch.cdist(x, y)).sum(-1)
def two(x, y): return torch.exp(-(x[:, None, :] - y[None, :, :]).square().sum(-1))
def divides(x, y): return 1 / torch.cdist(x, y)
def fails(x, y): raise KeyError("bump")
def skewed(x, y): return torch.exp(-torch.cdist(x, y)) * (1 + x[..., :, None, 0])
def ranked(x, y): return torch.exp(-torch.cdist(x, y) / x.square().sum())
def within(x, y): return torch.cdist(x, y, p="two")
"""


@pytest.mark.parametrize(
    ("function", "more", "words"),
    [
        ("none", {}, "returned None, called with points of shapes"),
        ("listed", {}, "returned a list"),
        ("numpys", {}, "returned a ndarray"),
        ("single", {}, "returned a tensor of float32, less precise than the points"),
        ("whole", {}, "returned a tensor of int64"),
        ("complexes", {}, "returned complex numbers; say is_complex: true"),
        ("flat", {}, "returned a tensor of shape (16,)"),
        ("two", {}, "called with points of shapes (2, 16, 2) and (2, 16, 2)"),
        ("divides", {}, "returned NaN or infinity"),
        ("divides", {"singular": True}, "returned NaN or infinity"),
        ("fails", {}, "raised KeyError ('bump') in line 14 of wrong_kernels_of_a_test.py"),
        ("within", {}, " in line 17 of wrong_kernels_of_a_test.py, called with"),
        ("skewed", {"symmetric": True}, "though the study says symmetric: true"),
        ("skewed", {"positive_definite": True}, "though the study says positive_definite: true"),
        ("ranked", {}, "in a batch"),
    ],
)
def test_a_function_that_is_no_kernel_is_refused_before_it_is_compressed(
    bench, matrix, capsys, function, more, words
):
    np.save(bench.folder / "points.npy", np.random.default_rng(5).random((40, 2)))
    (bench.folder / "wrong_kernels_of_a_test.py").write_text(WRONG_KERNELS)
    path = f"wrong_kernels_of_a_test:{function}"
    section = {
        "points": {"name": "file", "path": "points.npy"},
        "kernel": {"name": "custom", "path": path, **more},
        "nugget": 1.0,
        "task": "solve",
    }
    assert matrix(section) == [0, 2]
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: matrices.mine: kernel {path}: ")
    assert words in line


def test_a_function_that_fails_where_it_was_not_tried_is_one_line_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "late_kernels_of_a_test.py").write_text(
        "def late(x, y): return None if len(x) > 16 else (x @ y.mT)\n"
    )
    kernel = kernels.Imported("late_kernels_of_a_test:late")
    points = np.random.default_rng(6).random((40, 2))
    kernels.require_usable(kernel, points)
    with pytest.raises(ConfigError, match="late: returned None"):
        kernel(points, points)


def test_a_function_that_a_package_imports_is_blamed_with_the_file_it_is_written_in(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "package_of_a_test").mkdir()
    (tmp_path / "package_of_a_test" / "__init__.py").write_text("from .written import bump\n")
    (tmp_path / "package_of_a_test" / "written.py").write_text(
        "import torch\n\ndef bump(x, y): return torch.cdist(x, y, p='two')\n"
    )
    with pytest.raises(ConfigError, match=r"in line 3 of written\.py"):
        kernels.require_usable(kernels.Imported("package_of_a_test:bump"), np.ones((20, 2)))
