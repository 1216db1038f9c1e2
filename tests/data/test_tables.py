"""Tables in every format: the same numbers, units and grids, rows in parts, and bounded memory."""

import json
import tracemalloc

import netCDF4
import numpy as np
import pandas
import pyarrow as pa
import pytest
from pyarrow import parquet
from table_files import feature, raster

from pipeline.data import load_points
from pipeline.data.tables import FORMATS, delimited, open_table, read_columns, table
from pipeline.errors import ConfigError

UNITS = {"lon": "degrees", "lat": "degrees", "mm": "mm"}


def write(path, columns):
    """Write columns in the format of the path's ending."""
    n = len(next(iter(columns.values())))
    if path.suffix == ".csv":
        rows = zip(*(map(repr, map(float, column)) for column in columns.values()), strict=True)
        path.write_text("\n".join(map(",".join, [columns, *rows])) + "\n")
    elif path.suffix == ".npy":
        np.save(path, np.stack(list(columns.values()), axis=1))
    elif path.suffix == ".npz":
        np.savez(path, **columns)
    elif path.suffix == ".parquet":
        fields = [pa.field(name, pa.float64(), metadata={"units": UNITS[name]}) for name in columns]
        parquet.write_table(pa.table(list(columns.values()), schema=pa.schema(fields)), path)
    elif path.suffix == ".nc":
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("station", n)
            for name, column in columns.items():
                file.createVariable(name, "f8", ("station",))[:] = column
                file[name].units = UNITS[name]
    else:
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        path.write_text(
            json.dumps({"type": "FeatureCollection", "features": [feature(*row) for row in rows]})
        )


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    return {"lon": rng.uniform(-170, 170, 97), "lat": rng.uniform(-80, 80, 97), "mm": rng.standard_normal(97)}


@pytest.mark.parametrize("at_once", [1, 7, 97, 1000])
@pytest.mark.parametrize("ending", sorted(set(FORMATS) - {".tif"}))
def test_every_format_gives_the_numbers_that_were_written(tmp_path, monkeypatch, columns, ending, at_once):
    path = tmp_path / f"stations{ending}"
    write(path, columns)
    for module in ("numpy_files", "parquet", "netcdf", "geojson"):
        monkeypatch.setattr(f"pipeline.data.tables.{module}.ROWS_AT_ONCE", at_once)
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 64 * (at_once + 1))
    names = ["2", "0"] if ending == ".npy" else ["mm", "lon"]
    found = read_columns(path, names)
    assert list(found) == names
    np.testing.assert_array_equal(found[names[0]], columns["mm"])
    np.testing.assert_array_equal(found[names[1]], columns["lon"])


@pytest.mark.parametrize("ending", [".parquet", ".nc"])
def test_units_are_those_of_the_file_unless_others_are_given(tmp_path, columns, ending):
    path = tmp_path / f"stations{ending}"
    write(path, columns)
    options = {"path": path, "coordinates": ["lon", "lat"], "crs": "lonlat", "value": "mm"}
    assert load_points("file", **options).units["mm"] == "mm"
    assert load_points("file", **options, unit="inch").units["mm"] == "inch"


def test_several_values_are_read_with_a_unit_each(tmp_path, columns):
    write(tmp_path / "a.csv", columns)
    own = load_points("file", path=tmp_path / "a.csv", value=["mm", "lat"], unit=["mm", "degrees"])
    np.testing.assert_array_equal(own.points[:, 0], columns["lon"])
    np.testing.assert_array_equal(own.values["lat"], columns["lat"])
    assert (own.units["mm"], own.units["lat"]) == ("mm", "degrees")


@pytest.mark.parametrize("at_once", [1, 5, 12, 1000])
def test_every_cell_of_a_netcdf_grid_is_a_row(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("pipeline.data.tables.netcdf.ROWS_AT_ONCE", at_once)
    lat, lon = np.array([10.0, 20.0, 30.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    field = np.arange(15.0).reshape(3, 5)
    with netCDF4.Dataset(tmp_path / "grid.nc", "w") as file:
        file.createDimension("y", 3)
        file.createDimension("x", 5)
        file.createVariable("lat", "f4", ("y",))[:] = lat
        file.createVariable("lon", "f4", ("x",))[:] = lon
        file.createVariable("turned", "i2", ("x", "y"))[:] = field.T
        file.createVariable("name", str, ("y",))[:] = np.array(["a", "b", "c"], dtype=object)
    found = read_columns(tmp_path / "grid.nc", ["lon", "lat", "turned"])
    x, y = np.meshgrid(lon, lat, indexing="xy")
    order = np.lexsort((found["lon"], found["lat"]))
    for name, values in (("lon", x), ("lat", y), ("turned", field)):
        np.testing.assert_array_equal(found[name][order], values.ravel())
    places = read_columns(tmp_path / "grid.nc", ["lon", "lat"])
    np.testing.assert_array_equal(places["lon"], x.ravel())
    np.testing.assert_array_equal(places["lat"], y.ravel())


def test_every_cell_of_a_raster_is_a_row(tmp_path):
    raster(fill=7.0, crs="EPSG:4326")(tmp_path / "a.tif")
    found = read_columns(tmp_path / "a.tif")
    np.testing.assert_array_equal(found["x"], np.tile([5.5, 6.5, 7.5, 8.5], 3))
    np.testing.assert_array_equal(found["y"], np.repeat([47.5, 46.5, 45.5], 4))
    assert np.flatnonzero(found["1"] == 7.0).tolist() == [5]
    options = {"path": tmp_path / "a.tif", "coordinates": ["x", "y"], "value": "1"}
    assert len(load_points("file", **options, crs="lonlat").points) == 12
    with pytest.raises(
        ConfigError, match=r"its coordinates are lonlat, not plane; set points\.crs to lonlat"
    ):
        load_points("file", **options)


def test_a_missing_cell_of_a_grid_is_named_with_its_place(tmp_path):
    with netCDF4.Dataset(tmp_path / "grid.nc", "w") as file:
        file.createDimension("lat", 3)
        file.createDimension("lon", 5)
        values = np.ma.masked_array(np.zeros((3, 5)), mask=np.zeros((3, 5), bool))
        values[1, 3] = np.ma.masked
        file.createVariable("v", "f8", ("lat", "lon"), fill_value=-999.0)[:] = values
    with pytest.raises(
        ConfigError, match=r"row 9 \(lat 2, lon 4\), column v: wanted a finite number, found no"
    ):
        read_columns(tmp_path / "grid.nc", ["v"])


def test_coordinates_of_a_projection_stay_and_those_of_a_datum_become_places(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,y,v\n500000,5538630.7,1\n600000,5538630.7,2\n")
    plane = load_points("file", path=path, value="v", crs="EPSG:25832")
    np.testing.assert_array_equal(plane.points, [[500000, 5538630.7], [600000, 5538630.7]])
    assert plane.units["points"] == "m"
    path.write_text("x,y,v\n9,50,1\n10,50,2\n")
    globe = load_points("file", path=path, value="v", crs="EPSG:4258")
    np.testing.assert_allclose(globe.values["longitude"], [9, 10], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(globe.points, axis=1), 1.0, rtol=1e-15)
    with pytest.raises(ConfigError, match="pyproj knows no 'EPSG:1'"):
        list(load_points("file", path=path, value="v", crs="EPSG:1").points)


@pytest.mark.parametrize("ending", sorted(set(FORMATS) - {".npy", ".tif"}))
def test_reading_takes_memory_for_a_part_of_the_rows_only(tmp_path, monkeypatch, ending):
    """Rows that are added to a file add less than a quarter of their bytes to what is in memory."""
    for module in ("numpy_files", "parquet", "netcdf", "geojson"):
        monkeypatch.setattr(f"pipeline.data.tables.{module}.ROWS_AT_ONCE", 256)
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 1 << 12)
    sizes, peaks = (2048, 8192), []
    for n in sizes:
        rng = np.random.default_rng(n)
        path = tmp_path / f"{n}{ending}"
        write(path, {name: rng.uniform(-80, 80, n) for name in UNITS})
        assert rows_of(path) == n  # imports, and whatever is kept once
        tracemalloc.start()
        rows_of(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < (sizes[1] - sizes[0]) * len(UNITS) * 8 / 4


def test_arrow_holds_one_group_of_rows_of_a_parquet_file(tmp_path):
    path, group = tmp_path / "groups.parquet", 1009
    values = np.random.default_rng(0).standard_normal(20 * group)
    parquet.write_table(pa.table({"v": values}), path, row_group_size=group)
    before, held = pa.total_allocated_bytes(), []
    for _ in open_table(path).parts(["v"]):
        held.append(pa.total_allocated_bytes() - before)
    assert len(held) == 20
    assert max(held) < 1.5 * held[0]


def rows_of(path):
    return sum(len(part) for part in open_table(path).parts(list(UNITS)))


def test_rows_at_once_fit_in_memory():
    assert table.ROWS_AT_ONCE * 10 * 8 < 2**24


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n\r\n", "\n \t\n\n", "\n" * 100])
@pytest.mark.parametrize("rows", ["x\n1\n2", "x,y\n1,2\n3,4", "x\n"])
def test_blank_lines_at_the_end_of_a_csv_file_are_no_rows(tmp_path, monkeypatch, rows, end):
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 64)  # the blank lines take more than one block
    path = tmp_path / "a.csv"
    path.write_text(rows + end, newline="")
    expected = pandas.read_csv(path).to_numpy(float)
    own = open_table(path)
    found = list(own.parts(own.columns)) if len(expected) else []
    assert np.array_equal(np.concatenate([np.empty((0, len(own.columns))), *found]), expected)
    if not len(expected):
        with pytest.raises(ConfigError, match="holds no rows"):
            list(own.parts(own.columns))
    path.write_text(f"{rows.strip()}\n\n{rows.strip().splitlines()[-1]}\n", newline="")
    with pytest.raises(ConfigError, match=r"row \d"):
        list(own.parts(own.columns))
