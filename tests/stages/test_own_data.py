"""Matrices of one's own points, kernels and right-hand sides, from the file to the page."""

import json
import re

import netCDF4
import numpy as np
import pytest

from pipeline.artifacts.store import Artifact
from pipeline.config.loading import validate
from pipeline.data.globe import unit_vectors
from pipeline.data.tables import read_columns
from pipeline.errors import ConfigError
from pipeline.hmatrix import GaussianProcess, kernels
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
    found = np.array(solution(bench).array("solution"))
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
    assert "The mine system is solved for the 2 right-hand sides right.npy" in page(bench)


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
    found = solution(bench)
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
    assert solution(bench).facts["solve"]["exact_residual"] < 1e-5
    assert solution(bench).facts["result"]["right_hand_side"] == "values at the points"


@pytest.mark.parametrize(
    ("dimension", "kernel", "words"),
    [
        (1, {"name": "yukawa"}, "Yukawa is given in the plane and in space, not in 1 dimensions"),
        (
            4,
            {"name": "laplace_single_layer"},
            "LaplaceSingleLayer is given in the plane and in space, not in 4 dimensions",
        ),
        (4, {"name": "thin_plate"}, "ThinPlate is given in one to three dimensions, not in 4"),
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
        ({"points": FILE, "kernel": {"name": "custom", "path": "no_such_module:f"}, "task": "solve"},
         r"matrices.mine.kernel: path 'no_such_module:f' cannot be imported \(No module named 'no_such_module'\)"),
        ({"points": FILE, "kernel": {"name": "custom", "path": "math.pi"}, "task": "solve"},
         "path must be a module and a name in it"),
        ({"points": FILE, "kernel": {"name": "custom", "path": "math:pi"}, "task": "solve"}, "no function, but float"),
        ({"points": FILE, "kernel": MATERN, "task": "solve", "predict": {"path": "x.csv"}},
         "predict belongs to task 'kriging'"),
        ({"points": FILE, "kernel": MATERN, "task": "kriging", "predict": {}}, "predict wants a path or a grid"),
        ({"points": FILE, "kernel": MATERN, "task": "kriging", "predict": {"path": "x.csv", "grid": {"spacing": 1}}},
         "predict wants a path or a grid"),
        ({"points": FILE | {"value": ["a", "b"]}, "kernel": MATERN, "task": "kriging", "fit": {}},
         "fit needs one points.value, found 2"),
        ({"points": FILE | {"unit": ["mm", "cm"]}, "kernel": MATERN, "task": "kriging"},
         "points.unit: 2 units for 1 values"),
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


def stations(folder, n=300):
    """Write rain at places of a part of the globe to a file."""
    rng = np.random.default_rng(4)
    longitude, latitude = rng.uniform(5, 10, n), rng.uniform(45, 48, n)
    rain = 100 + 30 * np.sin(longitude) * np.cos(latitude)
    rows = "\n".join(f"{a},{b},{c},{c / 2}" for a, b, c in zip(longitude, latitude, rain, strict=True))
    (folder / "stations.csv").write_text(f"lon,lat,mm,snow\n{rows}\n")


RAIN = {
    "points": {
        "name": "file", "path": "stations.csv", "coordinates": ["lon", "lat"], "crs": "lonlat", "value": "mm",
        "unit": "mm",
    },
    "kernel": {"name": "matern", "nu": 1.5, "length_scale": "fit"},
    "task": "kriging",
    "compress": {"tolerance": 1e-6},
}  # fmt: skip


def rain_at(longitude, latitude):
    return 100 + 30 * np.sin(longitude) * np.cos(latitude)


@pytest.mark.parametrize("ending", ["csv", "nc", "tif"])
def test_a_grid_is_predicted_and_written_in_every_format(bench, matrix, ending):
    stations(bench.folder)
    predict = {"grid": {"spacing": 0.25}, "format": ending}
    assert matrix(RAIN | {"predict": predict}) == [0, 0, 0, 0]
    path = bench.folder / f"solve/mine/predictions.{ending}"
    names = ["x", "y", "1", "2"] if ending == "tif" else ["lon", "lat", "mm", "mm_std"]
    longitude, latitude, mean, std = read_columns(path, names).values()
    assert set(np.round(np.unique(longitude) / 0.25 % 1, 9)) == {0.0}
    inside = (longitude > 5.2) & (longitude < 9.8) & (latitude > 45.2) & (latitude < 47.8)
    assert inside.sum() > 100
    truth = rain_at(longitude[inside], latitude[inside])
    assert np.sqrt(np.mean((mean[inside] - truth) ** 2)) < 0.05 * truth.std()
    # Means are off by as much as their standard deviations say, chance allowing: 5 of them for none of some hundreds.
    assert np.all(np.abs(mean[inside] - truth) < 5 * std[inside] + 1e-3 * truth.std())
    assert f"predictions.{ending} beside its solution holds mean and standard deviation at" in page(bench)
    assert "Map of the predicted mm" in page(bench)


def test_a_grid_that_is_the_map_is_predicted_once(bench, matrix, monkeypatch):
    stations(bench.folder, n=131)
    sizes, predict = [], GaussianProcess.predict

    def counted(process, places, **options):
        sizes.append(len(places))
        return predict(process, places, **options)

    monkeypatch.setattr(GaussianProcess, "predict", counted)
    kernel = {"name": "matern", "length_scale": 0.05}
    asked = {"grid": {"spacing": 0.5}, "format": "nc"}
    assert matrix(RAIN | {"kernel": kernel, "nugget": 0.1, "predict": asked}) == [0, 0, 0, 0]
    found = read_columns(bench.folder / "solve/mine/predictions.nc", ["mm", "mm_std"])
    assert sizes == [
        13,
        13,
        len(found["mm"]),
    ]  # the held-out values for their scores and deviations, then the grid
    np.testing.assert_array_equal(np.array(solution(bench).array("grid")).ravel(), found["mm"])
    np.testing.assert_array_equal(np.array(solution(bench).array("grid_std")).ravel(), found["mm_std"])


def test_places_of_a_netcdf_grid_are_predicted_in_their_shape_with_units(bench, matrix):
    stations(bench.folder)
    lat, lon = np.linspace(45.5, 47.5, 7), np.linspace(6.0, 9.0, 11)
    with netCDF4.Dataset(bench.folder / "grid.nc", "w") as file:
        for name, values in (("lat", lat), ("lon", lon)):
            file.createDimension(name, len(values))
            file.createVariable(name, "f8", (name,))[:] = values
    assert matrix(RAIN | {"predict": {"path": "grid.nc"}}) == [0, 0, 0, 0]
    with netCDF4.Dataset(bench.folder / "solve/mine/predictions.nc") as file:
        assert file["mm"].dimensions == ("lat", "lon")
        assert (file["mm"].units, file["mm_std"].units) == ("mm", "mm")
        np.testing.assert_array_equal(file["lon"][:], lon)
        truth = rain_at(lon, lat[:, None])
        assert np.all(np.abs(file["mm"][:] - truth) < 5 * file["mm_std"][:] + 1e-3 * truth.std())
    grid = np.array(solution(bench).array("grid"))
    assert grid.shape == (7, 11)


def test_places_of_a_list_are_predicted_as_a_dense_solve_would(bench, matrix):
    stations(bench.folder, n=131)
    (bench.folder / "towns.csv").write_text("lat,lon\n46.5,7.5\n46.0,8.25\n")
    kernel = {"name": "matern", "nu": 0.5, "length_scale": 0.05}
    section = RAIN | {"kernel": kernel, "nugget": 0.1, "predict": {"path": "towns.csv"}}
    section |= {"points": RAIN["points"] | {"value": ["mm", "snow"], "unit": ["mm", "cm"]}}
    assert matrix(section) == [0, 0, 0, 0]
    found = read_columns(bench.folder / "solve/mine/predictions.csv")
    assert list(found) == ["lon", "lat", "mm", "mm_std", "snow", "snow_std"]
    points = Artifact.open(bench.manifest("points/mine"), "points")
    known, values = (np.array(points.array(name)) for name in ("points", "values"))
    assert values.shape == (118, 2)
    towns = unit_vectors(found["lat"], found["lon"])
    covariance, cross = (
        np.exp(-np.linalg.norm(a[:, None] - known[None], axis=2) / 0.05) for a in (known, towns)
    )
    inverse = np.linalg.inv(covariance + 0.1 * np.eye(118))
    ones = np.ones(118)
    for column, name in enumerate(("mm", "snow")):
        own = values[:, column]
        # Ordinary kriging: the mean is estimated too (Rasmussen and Williams 2006, section 2.7).
        level = ones @ inverse @ own / (ones @ inverse @ ones)
        mean = level + cross @ inverse @ (own - level)
        missed = 1 - cross @ inverse @ ones
        variance = 1 - np.sum(cross @ inverse * cross, axis=1) + missed**2 / (ones @ inverse @ ones)
        np.testing.assert_allclose(found[name], mean, rtol=1e-5)
        np.testing.assert_allclose(found[f"{name}_std"], np.sqrt(variance) * own.std(ddof=1), rtol=1e-5)
    assert "Kriging predicts the snow of 13 held-out points" in page(bench)


def test_a_map_of_the_plane_is_on_the_page(bench, matrix):
    rng = np.random.default_rng(5)
    x, y = rng.uniform(0, 4, (2, 200))
    np.savez(bench.folder / "plane.npz", x=x, y=y, v=np.sin(x) + y)
    section = RAIN | {"points": {"name": "file", "path": "plane.npz", "value": "v"}, "predict": None}
    assert matrix(section) == [0, 0, 0, 0]
    assert "Map of the predicted v" in page(bench)
    assert solution(bench).array("grid").shape[1] == len(solution(bench).array("grid_x"))


@pytest.mark.parametrize(
    ("predict", "words"),
    [
        ({"path": "towns.csv"}, r"towns.csv: has no column 'lat'; columns: lon, height"),
        ({"path": "towns.csv", "coordinates": ["lon"]}, r"1 coordinates \(lon\), but the points have 2"),
        ({"path": "odd.csv", "format": "tif"}, "a GeoTIFF needs a regular grid"),
        ({"grid": {"spacing": 1e-6}}, r"makes 1.48e\+13 places over the points; wanted at most 10,000,000"),
    ],
)
def test_places_that_do_not_fit_are_one_line(bench, matrix, capsys, predict, words):
    stations(bench.folder)
    (bench.folder / "towns.csv").write_text("lon,height\n7,3\n")
    (bench.folder / "odd.csv").write_text("lon,lat\n7,46\n7.5,46.1\n8,47\n")
    kernel = {"name": "matern", "length_scale": 0.05}
    codes = matrix(RAIN | {"kernel": kernel, "nugget": 0.1, "predict": predict})
    assert codes == [0, 0, 2]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.search(words, line), line


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
    found = np.array(solution(bench).array("product"))
    assert np.linalg.norm(found - wanted) < 1e-7 * np.linalg.norm(wanted)
    assert "The mine matrix is multiplied by x.npy in" in page(bench)


def test_a_log_determinant_is_that_of_the_dense_matrix(bench, matrix):
    kernel = {"name": "matern", "nu": 0.5, "length_scale": 0.3}
    points = {"name": "fibonacci_sphere", "n": 173}
    assert matrix(MATRICES | {"points": points, "kernel": kernel, "task": "logdet"}) == [0, 0, 0, 0]
    places = np.array(Artifact.open(bench.manifest("points/mine"), "points").array("points"))
    wanted = np.linalg.slogdet(dense(places, kernel, 0.1))[1]
    assert solution(bench).facts["result"]["log_determinant"] == pytest.approx(wanted, rel=1e-6)
    assert "The log-determinant of mine, 173 rows, is" in page(bench)


def test_samples_have_the_covariance_of_the_dense_matrix(bench, matrix):
    kernel = {"name": "matern", "nu": 1.5, "length_scale": 0.4}
    section = MATRICES | {"points": {"name": "uniform_cube", "n": 67}, "kernel": kernel, "task": "sample"}
    assert matrix(section | {"samples": 20_000, "seed": 3}) == [0, 0, 0, 0]
    places = np.array(Artifact.open(bench.manifest("points/mine"), "points").array("points"))
    samples = np.array(solution(bench).array("samples"))
    wanted = dense(places, kernel, 0.1)
    # An entry of the mean of 20,000 products has a variance of (a_ii a_jj + a_ij^2) / 20,000; 5 deviations for 2,278.
    deviation = np.sqrt((np.outer(np.diag(wanted), np.diag(wanted)) + wanted**2) / 20_000)
    assert np.all(np.abs(samples @ samples.T / 20_000 - wanted) < 5 * deviation)
    assert "20,000 samples of covariance mine are drawn (seed 3)" in page(bench)


def test_a_complex_kernel_solves_and_multiplies(bench, matrix):
    kernel = {"name": "helmholtz", "wavenumber": 3.0}
    points = {"name": "uniform_cube", "n": 149}
    section = {"points": points, "kernel": kernel, "nugget": 50.0, "compress": {"tolerance": 1e-7}}
    for task in ("solve", "product"):
        assert matrix(section | {"task": task}) == [0, 0, 0, 0]
        places = np.array(Artifact.open(bench.manifest("points/mine"), "points").array("points"))
        whole = dense(places, kernel, 50.0)
        wanted = np.linalg.solve(whole, np.ones(149)) if task == "solve" else whole @ np.ones(149)
        found = np.array(solution(bench).array("solution" if task == "solve" else "product"))
        assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("task", ["logdet", "sample"])
def test_a_kernel_that_is_no_covariance_has_no_such_answer(task):
    section = {"points": SQUARE, "kernel": {"name": "yukawa"}, "task": task}
    with pytest.raises(ConfigError, match=f"task '{task}' needs a covariance"):
        validate({"study": "own", "matrices": {"mine": section}})
