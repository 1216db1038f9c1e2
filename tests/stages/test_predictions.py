"""Predictions of one's own matrices at places and on grids, from the file to the page."""

import re

import netCDF4
import numpy as np
import pytest

from pipeline.artifacts.store import Artifact
from pipeline.data.globe import unit_vectors
from pipeline.data.tables import read_columns
from pipeline.hmatrix import GaussianProcess


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
    assert f"predictions.{ending} holds mean and standard deviation at" in bench.page()
    assert "Map of the predicted mm" in bench.page()


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
    np.testing.assert_array_equal(np.array(bench.solution().array("grid")).ravel(), found["mm"])
    np.testing.assert_array_equal(np.array(bench.solution().array("grid_std")).ravel(), found["mm_std"])


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
    grid = np.array(bench.solution().array("grid"))
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
    assert "Kriging predicts the snow of 13 held-out points" in bench.page()


def test_a_map_of_the_plane_is_on_the_page(bench, matrix):
    rng = np.random.default_rng(5)
    x, y = rng.uniform(0, 4, (2, 200))
    np.savez(bench.folder / "plane.npz", x=x, y=y, v=np.sin(x) + y)
    section = RAIN | {"points": {"name": "file", "path": "plane.npz", "value": "v"}, "predict": None}
    assert matrix(section) == [0, 0, 0, 0]
    assert "Map of the predicted v" in bench.page()
    assert bench.solution().array("grid").shape[1] == len(bench.solution().array("grid_x"))


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
