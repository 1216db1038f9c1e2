"""Malformed tables of every format: each is one line about its mistake."""

import gzip
import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from table_files import archive, encrypted, feature, geojson_with, header, netcdf, npy, npz, raster, table_of

from pipeline.data.tables import FORMATS, open_table, read_columns
from pipeline.errors import ConfigError

CSV = "name,lon,lat,mm\nA,1,2,3\nB,4,5,6\n"


X, N = np.array([1.0, 2.0]), np.array([1.0, np.nan])


PLACES = {"lon": ("s", X), "lat": ("s", X)}


NAMES = ["lon", "lat", "mm"]


MALFORMED = {
    ".csv": [
        (b"", "no column 'lon'; columns: none"),
        (b"\n", "no column 'lon'"),
        (b"lon,lat,mm\n", "holds no rows"),
        (b"lon,lat\n1,2\n", "no column 'mm'"),
        (b"lon,late,mm\n1,2,3\n", "no column 'lat'; did you mean 'late'"),
        (b"lon,lat,mm\n1,2\n", r"row 1 \(line 2\): wanted 3 values, found 2"),
        (b"lon,lat,mm\n1,2,3\n1,2,3,4\n", r"row 2 \(line 3\): wanted 3 values, found 4"),
        (b"lon,lat,mm\n1,2,3\n\n1,2,3\n", r"row 2 \(line 3\), column lon: .* found no value"),
        (b"lon,lat,mm\n1,2,nan\n", r"row 1 \(line 2\), column mm: .* found no value"),
        (b"lon,lat,mm\n1,2,3\n1,2,\n", r"row 2 \(line 3\), column mm: .* found no value"),
        (b"lon,lat,mm\n1,2,1e999\n", r"row 1 \(line 2\), column mm: .* found '1e999'"),
        (b"lon,lat,mm\n1,2,3\n1,NA,3\n", r"row 2 \(line 3\), column lat: .* found 'NA'"),
        (b"lon,lat,mm\n1,2,1_000\n", r"row 1 \(line 2\), column mm: .* found '1_000'"),
        (b"lon,lat,mm\n1,2,0x10\n", r"row 1 \(line 2\), column mm: .* found '0x10'"),
        (b"lon,lat,mm\n1,2,3 mm\n", r"row 1 \(line 2\), column mm: .* found '3 mm'"),
        (b'lon,lat,mm\n1,2,"3,5"\n', r"row 1 \(line 2\), column mm: .* found '3,5'"),
        (b"lon,lat,lat,mm\n1,2,2,3\n", "column 'lat' occurs twice"),
        (b"lon;lat;mm\n1;2;3\n", "separated by ';'"),
        (b"lon\tlat\tmm\n1\t2\t3\n", r"separated by '\\t'"),
        (b"lon,lat,mm\n1,\xe9,3\n", "not a text file; save it as CSV in UTF-8"),
        (b"\xff\xfel\0o\0n\0,\0", "not a text file"),
        (b"PK\x03\x04\x00\x00\x00", "not a text file"),
        (b'lon,lat,mm\n1,2,3\n1,2,"3\n', "cannot be read .*Row #3"),
        (b'lon,lat,mm\n1,2,3\n1,2,"3\n\n', "cannot be read .*Row #3"),
        (b"lon,lat,mm", "holds no rows"),
        (gzip.compress(b"lon,lat,mm\n1,2,3\n", mtime=0), "not a text file"),
        ("lon,lat,mm\n1,2,\u0663\n".encode(), r"row 1 \(line 2\), column mm: .* found '\u0663'"),
        ("lon,lat,mm\n1,2,\u22123\n".encode(), r"row 1 \(line 2\), column mm: .* found '\u22123'"),
        (b"lon,lat,mm\n1,2,3\0\n", r"row 1 \(line 2\), column mm: .* found '3\\x00'"),
        (b"lon,lat,mm\n1,5,2,5,3,5\n", r"row 1 \(line 2\): wanted 3 values, found 6"),
        (b"lon,lat,mm\n1,2,3\nlon,lat,mm\n", r"row 2 \(line 3\), column lon: .* found 'lon'"),
        (b"# stations\nlon,lat,mm\n1,2,3\n", "no column 'lon'; columns: # stations"),
    ],
    ".npy": [
        (b"", "not an array that numpy.save wrote"),
        (b"lon,lat,mm\n1,2,3\n", "not an array that numpy.save wrote"),
        (b"\x93NUMPY", "not an array"),
        (b"\x93NUMPY\x09\x00v\x00{", "not an array"),
        (b"\x93NUMPY\x01\x00\x06\x00{bad}\n", "not an array"),
        (npy(np.zeros((9, 3)), cut=1), "not an array"),
        (npy(np.zeros((9, 3)), cut=200), "not an array"),
        (npy(np.zeros((9, 3)), head=b"x"), "not an array"),
        (npy(np.zeros((0, 3))), "holds no rows"),
        (npy(np.zeros((3, 0))), "no column '0'; columns: none"),
        (npy(np.float64(3)), r"holds float64 of shape \(\)"),
        (npy(np.zeros((3, 3, 3))), r"of shape \(3, 3, 3\); wanted real numbers"),
        (npy(np.zeros((3, 3), complex)), "holds complex128"),
        (npy(np.zeros((3, 3), bool)), "holds bool"),
        (npy(np.array(["a", "b"])), "holds <U1"),
        (npy(np.array([{}, {}], dtype=object)), "not an array"),
        (npy(np.zeros(3, [("lon", float)])), "wanted real numbers"),
        (npy(np.zeros((3, 2))), "no column '2'"),
        (npy(np.array([[1, 2, 3], [1, np.nan, 3]])), "row 2, column 1: .* found no value"),
        (npy(np.array([[1, 2, -np.inf]])), "row 1, column 2: .* found '-inf'"),
        (npz(lon=X), "holds several arrays; call it .npz"),
        (header((2**62, 3)), "not an array"),
        (header((2**70, 3)), "not an array"),
        (header((-1, 3)), "not an array .*negative dimensions"),
        (header((1.5, 3)), "not an array .*shape is not valid"),
        (header((1, 3), kind="<q9"), "not an array .*not a valid dtype"),
        (header((1, 10**5), kind="|u1", content=bytes(10**5)), "has 100,000 columns; wanted 10,000 at most"),
        (gzip.compress(bytes(99), mtime=0), "not an array .*it begins with"),
    ],
    ".npz": [
        (b"", "not a file that numpy.savez wrote"),
        (b"lon,lat,mm\n", "not a file that numpy.savez wrote"),
        (b"PK\x03\x04", "not a file"),
        (npy(np.zeros((3, 3))), "not a file that numpy.savez wrote"),
        (npz(cut=10, lon=X, lat=X, mm=X), "not a file"),
        (npz(cut=300, lon=X, lat=X, mm=X), "not a file"),
        (npz(), "no column 'lon'; columns: none"),
        (npz(lon=X, lat=X), "no column 'mm'"),
        (npz(lon=X, lat=X, mmm=X), "did you mean 'mmm'"),
        (npz(lon=X, lat=X, mm=np.zeros(3)), r"differ in length \(lon 2, lat 2, mm 3\)"),
        (npz(lon=X, lat=X, mm=N), "row 2, column mm: .* found no value"),
        (npz(lon=X, lat=X, mm=X * np.inf), "row 1, column mm: .* found 'inf'"),
        (npz(lon=X[:0], lat=X[:0], mm=X[:0]), "holds no rows"),
        (npz(lon=X, lat=X, mm=np.array(["a", "b"])), "mm holds <U1"),
        (npz(lon=X, lat=X, mm=np.array([{}, 1], object)), "mm holds object"),
        (npz(lon=X, lat=X, mm=X * 1j), "mm holds complex128"),
        (npz(lon=X, lat=X, mm=X > 0), "mm holds bool"),
        (npz(lon=X, lat=X, mm=np.float64(2)), r"mm holds float64 of shape \(\)"),
        (npz(lon=X, lat=X, mm=np.zeros((2, 2, 2))), r"of shape \(2, 2, 2\)"),
        (npz(lon=X, lat=X, mm=np.zeros((2, 2))), r"no column 'mm'; .* columns: lon, lat, mm\.0, mm\.1"),
        (npz(points=np.zeros((2, 3))), "columns: points.0, points.1, points.2"),
        (archive(("lon", header((-2,)))), r"lon holds float64 of shape \(-2,\)"),
        (archive(("lon", header((2**62,))), ("lat", header((2**62,))), ("mm", header((2**62,)))), "it ends too early"),
        (archive(("lon", b"")), "not a file .*reading magic string"),
        (archive(("lon", header((2,), content=X.tobytes())), ("lon", b"")), "array 'lon' occurs twice"),
        (encrypted, "not a file .*is encrypted"),
    ],
    ".parquet": [
        (b"", "cannot be read"),
        (b"lon,lat,mm\n1,2,3\n", "cannot be read"),
        (b"PAR1", "cannot be read"),
        (b"PAR1" + b"\0" * 64 + b"PAR1", "cannot be read"),
        (b"PAR1" + b"\xff" * 64 + b"PAR1", "cannot be read"),
        (table_of(cut=1, lon=X, lat=X, mm=X), "cannot be read"),
        (table_of(cut=100, lon=X, lat=X, mm=X), "cannot be read"),
        (npy(np.zeros((3, 3))), "cannot be read"),
        (table_of(), "has no column of numbers, found no columns"),
        (table_of(lon=["1"], lat=["2"], mm=["3"]), "no column of numbers, found lon string"),
        (table_of(lon=X, lat=X), "no column 'mm'"),
        (table_of(lon=X, latitude=X, mm=X), "no column 'lat'"),
        (table_of(lon=X, lat=X, mm=["1", "2"]), "no column 'mm'"),
        (table_of(lon=X, lat=X, mm=[True, False]), "no column 'mm'"),
        (table_of(lon=X, lat=X, mm=[[1.0], [2.0]]), "no column 'mm'"),
        (table_of(lon=X, lat=X, mm=pa.array([1, None])), "row 2, column mm: .* found no value"),
        (table_of(lon=X, lat=X, mm=pa.array([None, None], pa.float32())), "row 1, column mm: .* no value"),
        (table_of(lon=X, lat=N, mm=X), "row 2, column lat: .* found no value"),
        (table_of(lon=X, lat=X, mm=-X * np.inf), "row 1, column mm: .* found '-inf'"),
        (table_of(lon=X[:0], lat=X[:0], mm=X[:0]), "holds no rows"),
        (
            lambda path: parquet.write_table(pa.Table.from_arrays([pa.array(X)] * 2, names=["lon", "lon"]), path),
            "column 'lon' occurs twice",
        ),
    ],
    ".nc": [
        (b"", "cannot be read"),
        (b"lon,lat,mm\n", "cannot be read"),
        (b"CDF\x01", "cannot be read"),
        (b"CDF\x09" + b"\0" * 60, "cannot be read"),
        (b"\x89HDF\r\n\x1a\n", "cannot be read"),
        (netcdf(damage=True, **PLACES), "cannot be read"),
        (netcdf(cut=1000, **PLACES), "cannot be read"),
        (npy(np.zeros((3, 3))), "cannot be read"),
        (netcdf(), "has no variable of numbers along a dimension"),
        (netcdf(mm=("", np.float64(3))), "has no variable of numbers along a dimension"),
        (netcdf(lon=("s", np.array(["a", "b"]))), "has no variable of numbers along a dimension"),
        (netcdf(**PLACES), "no column 'mm'"),
        (netcdf(lon=("s", X), latitude=("s", X), mm=("s", X)), "no column 'lat'; columns: lon, latitude, mm"),
        (netcdf(**PLACES, mm=("s", np.array(["a", "b"]))), "no column 'mm'"),
        (netcdf(**PLACES, mm=("s", N)), "row 2, column mm: .* found no value"),
        (netcdf(**PLACES, mm=("s", X * np.inf)), "row 1, column mm: .* found 'inf'"),
        (netcdf(**PLACES, mm=("s", np.ma.masked_values([1.0, 2.0], 2.0), -9.0)), "row 2, column mm: .* no value"),
        (netcdf(**PLACES, mm=("t", np.zeros(3))), "no column 'mm'"),
        (netcdf(lon=("x", X), lat=("y", X), mm=("xy", np.array([[1, 2], [3, np.nan]]))), r"row 4 \(x 2, y 2\)"),
        (netcdf(lon=("s", X[:0]), lat=("s", X[:0]), mm=("s", X[:0])), "holds no rows"),
        (netcdf(lon=("x", X), lat=("z", np.zeros(4)), mm=("xy", np.zeros((2, 2)))), "no column 'lat'"),
    ],
    ".tif": [
        (b"", "cannot be read"),
        (b"lon,lat,mm\n1,2,3\n", "cannot be read"),
        (b"II*\0", "cannot be read"),
        (b"MM\0*" + b"\xff" * 60, "cannot be read"),
        (b"II*\0\x08\0\0\0" + b"\0" * 60, "cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 60, "cannot be read"),
        (npy(np.zeros((3, 3))), "cannot be read"),
        (raster(cut=16), "cannot be read"),
        (raster(cut=50), "cannot be read"),
        (raster(cut=100), "does not give the coordinates of its cells"),
        (raster(cut=300), "cannot be read"),
        (raster(turned=True), "its grid is rotated"),
        (raster(fill=np.nan), r"row 6 \(y 2, x 2\), column 1: .* found no value"),
        (raster(fill=np.inf), r"row 6 \(y 2, x 2\), column 1: .* found 'inf'"),
        (raster(fill=-np.inf), r"row 6 \(y 2, x 2\), column 1: .* found '-inf'"),
        (raster(fill=-9.0, nodata=-9.0), r"row 6 \(y 2, x 2\), column 1: .* found no value"),
        (raster(fill=1e38, nodata=1e38, dtype="float32"), "row 6 .* found no value"),
        (raster(fill=7, nodata=7, dtype="int16"), "row 6 .* found no value"),
        (raster(fill=255, nodata=255, dtype="uint8"), "row 6 .* found no value"),
        (raster(dtype="complex64"), "holds complex64; wanted real numbers"),
    ],
    ".geojson": [
        (b"", "cannot be read"),
        (b"lon,lat,mm\n1,2,3\n", "cannot be read"),
        (b"{", "cannot be read"),
        (b"[]", "holds no features"),
        (b"{}", "holds no features"),
        (b'{"type": "FeatureCollection", "features": []}', "holds no features"),
        (json.dumps(feature(1, 2, 3)).encode(), "holds no features; wanted a FeatureCollection"),
        (geojson_with()[:-10], "cannot be read"),
        (geojson_with()[:-2] + b"],}", "cannot be read"),
        (geojson_with(type="Thing"), "row 2: wanted a Feature, found 'Thing'"),
        (b'{"features": [1]}', "row 1: wanted a Feature, found '1'"),
        (geojson_with(geometry=None), "row 2, geometry: wanted a Point, found None"),
        (geojson_with(geometry={"type": "Polygon", "coordinates": []}), "row 2, geometry: .* found Polygon"),
        (geojson_with(geometry={"type": "Point"}), "row 2, geometry: wanted 2 or 3 numbers"),
        (geojson_with(geometry={"type": "Point", "coordinates": [1]}), r"row 2, geometry: .* found \[1\]"),
        (geojson_with(geometry={"type": "Point", "coordinates": ["1", "2"]}), "row 2, geometry: wanted 2 or 3"),
        (geojson_with(geometry={"type": "Point", "coordinates": [1, 2, 3]}), "row 2, geometry: wanted 2 coordinates"),
        (geojson_with(properties=None), "row 2, column mm: .* found no value"),
        (geojson_with(properties={"mm": None}), "row 2, column mm: .* found no value"),
        (geojson_with(properties={"mm": "3 mm"}), "row 2, column mm: .* found '3 mm'"),
        (geojson_with(properties={"mm": True}), "row 2, column mm: .* found 'True'"),
        (geojson_with().replace(b'"mm": 3.0', b'"mm": NaN'), "cannot be read"),
        (geojson_with().replace(b'"mm"', b'"mmm"'), "no column 'mm'; did you mean 'mmm'"),
        (geojson_with().replace(b'"mm"', b'"lat"'), "property 'lat' has the name of a coordinate"),
    ],
}  # fmt: skip


def test_every_format_has_twenty_malformed_files():
    assert set(MALFORMED) == set(FORMATS)
    assert all(len(cases) >= 20 for cases in MALFORMED.values())


@pytest.mark.parametrize(
    ("ending", "content", "words"),
    [(ending, *case) for ending, cases in MALFORMED.items() for case in cases],
    ids=[f"{ending[1:]}-{i}" for ending, cases in MALFORMED.items() for i in range(len(cases))],
)
def test_a_malformed_file_is_one_line_about_its_mistake(tmp_path, ending, content, words):
    path = tmp_path / f"stations{ending}"
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    names = {".npy": ["0", "1", "2"], ".tif": ["x", "y", "1"]}.get(ending, NAMES)
    with pytest.raises(ConfigError, match=words) as error:
        read_columns(path, names)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    # What to do, or what there is to choose from, stands behind a semicolon.
    assert "; " in str(error.value)


def no_file(path):
    return "there is no such file; paths start at "


def folder(path):
    path.mkdir()
    return "is a folder; name a file in it"


def dead_link(path):
    path.symlink_to("gone")
    return "is a link to gone, which is not there; correct the link"


def pipe(path):
    os.mkfifo(path)
    return "is a pipe or a device; write its content to a file"


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("make", [no_file, folder, dead_link, pipe], ids=lambda make: make.__name__)
def test_what_is_no_file_is_one_line_that_says_so(tmp_path, ending, make):
    path = tmp_path / f"stations{ending}"
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: {make(path)}"):
        open_table(path)


def test_a_file_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("x\n1\n")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(
        ConfigError, match=r"a\.csv: cannot be read .permission denied.; correct its permissions"
    ):
        open_table(tmp_path / "a.csv")


def test_a_name_that_no_file_system_takes_is_one_line():
    with pytest.raises(
        ConfigError, match=r"^a{100}: there is no such file \(File name too long\); name one$"
    ):
        open_table(Path("a" * 5000 + ".csv"))
