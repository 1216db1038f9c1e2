import numpy as np
import pytest

from pipeline.data import load_points
from pipeline.data.own_points import OwnPoints, load_own_points
from pipeline.data.tables import delimited, read_columns
from pipeline.errors import ConfigError

ROWS = "name,lon,lat,mm\nA,7.5,46.0,12.5\nB,8.25,47.5,3e-1\nC,-170,-10,0\n"


@pytest.fixture
def stations(tmp_path):
    path = tmp_path / "stations.csv"
    path.write_text(ROWS)
    return path


def test_columns_of_a_csv_file_are_read_by_name(stations):
    found = read_columns(stations, ["mm", "lon"])
    assert list(found) == ["mm", "lon"]
    np.testing.assert_array_equal(found["mm"], [12.5, 0.3, 0.0])
    np.testing.assert_array_equal(found["lon"], [7.5, 8.25, -170.0])


@pytest.mark.parametrize("at_once", [1, 2, 3, 4])
def test_rows_are_counted_through_the_parts_that_a_file_is_read_in(stations, monkeypatch, at_once):
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 24 * at_once)
    np.testing.assert_array_equal(read_columns(stations, ["lat"])["lat"], [46.0, 47.5, -10.0])
    stations.write_text(ROWS + "D,1,2,none\n")
    with pytest.raises(
        ConfigError, match=r"row 4 \(line 5\), column mm: wanted a finite number, found 'none'"
    ):
        read_columns(stations, ["lat", "mm"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no column 'lon'"),
        ("lon,lat,mm\n", "holds no rows"),
        ("lon,lat\n1,2\n", "has no column 'mm'"),
        ("lon,late,mm\n1,2,3\n", "has no column 'lat'; did you mean 'late'"),
        ("lon,lat,mm\n1,2\n", r"row 1 \(line 2\): wanted 3 values, found 2"),
        ("lon,lat,mm\n1,2,3\n1,2,3,4\n", r"row 2 \(line 3\): wanted 3 values, found 4"),
        ("lon,lat,mm\n1,2,nan\n", r"row 1 \(line 2\), column mm: wanted a finite number, found no value"),
        ("lon,lat,mm\n1,2,\n", r"row 1 \(line 2\), column mm: wanted a finite number, found no value"),
        ("lon,lat,mm\n1,2,1e999\n", r"row 1 \(line 2\), column mm: wanted a finite number, found '1e999'"),
        (
            "lon,lat,mm\n1,2,-1e300\n",
            r"row 1 \(line 2\), column mm: wanted a number of size 1e\+100 at most, found '-1e300'",
        ),
        (
            "lon,lat,mm\n1e101,2,3\n",
            r"row 1 \(line 2\), column lon: wanted a number of size 1e\+100 at most, found '1e101'",
        ),
        ("lon,lat,lat,mm\n1,2,2,3\n", "column 'lat' occurs twice"),
        ("lon;lat;mm\n1;2;3\n", "separated by ';'; save it with commas"),
        ("lon,lat,mm\n1,\u00e9,3\n", r"row 1 \(line 2\), column lat: wanted a finite number"),
    ],
)
def test_a_malformed_csv_file_is_one_line_with_row_and_column(stations, text, words):
    stations.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as error:
        read_columns(stations, ["lon", "lat", "mm"])
    assert "\n" not in str(error.value)
    assert str(stations) in str(error.value)


def test_the_line_of_a_mistake_is_that_of_an_editor(stations):
    stations.write_text('name,lon,lat\n"A\nB",1,2\nC,1,\n')
    with pytest.raises(ConfigError, match=r"row 2 \(line 4\), column lat: .* found no value"):
        read_columns(stations, ["lon", "lat"])


def test_a_file_in_another_encoding_is_one_line(stations):
    stations.write_bytes(b"lon,lat,mm\n1,\xe9,3\n")
    with pytest.raises(ConfigError, match="not a text file; save it as CSV in UTF-8"):
        read_columns(stations, ["lon"])


def test_columns_of_arrays_are_called_by_number_or_by_their_array(tmp_path):
    array = np.arange(6.0).reshape(3, 2)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", points=array, mm=array[:, 0])
    assert list(read_columns(tmp_path / "a.npy")) == ["0", "1"]
    found = read_columns(tmp_path / "b.npz", ["points.1", "mm"])
    np.testing.assert_array_equal(found["points.1"], array[:, 1])
    np.testing.assert_array_equal(found["mm"], array[:, 0])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros(3), "b": np.zeros(2)}, "differ in length"),
        ({"a": np.array(["x"])}, "wanted real numbers"),
        ({"a": np.zeros((2, 2, 2))}, "wanted real numbers"),
        ({"a": np.array([1.0, np.nan])}, "row 2, column a"),
        ({"a": np.zeros(0)}, "holds no rows"),
        ({"a": np.array([{}], dtype=object)}, "wanted real numbers"),
    ],
)
def test_malformed_arrays_are_one_line(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ConfigError, match=words):
        read_columns(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "words"), [("gone.csv", "no such file"), ("a.txt", "ends in .csv, .npy, .npz")]
)
def test_a_file_that_is_not_there_or_of_another_kind_is_one_line(tmp_path, name, words):
    with pytest.raises(ConfigError, match=words):
        read_columns(tmp_path / name)


def test_longitudes_and_latitudes_become_places_on_the_globe(stations):
    own = load_points("file", path=stations, coordinates=["lon", "lat"], crs="lonlat", value="mm", unit="mm")
    np.testing.assert_allclose(np.linalg.norm(own.points, axis=1), 1.0, rtol=1e-15)
    np.testing.assert_allclose(np.degrees(np.arcsin(own.points[:, 2])), [46.0, 47.5, -10.0], rtol=1e-12)
    assert own.units["mm"] == "mm"
    np.testing.assert_allclose(own.values["longitude"], [7.5, 8.25, -170.0])


def test_swapped_coordinates_are_refused_by_their_range(stations):
    with pytest.raises(
        ConfigError, match=r"row 3, column lon: wanted degrees from -90 to 90, found -170; .*longitude"
    ):
        load_points("file", path=stations, coordinates=["lat", "lon"], crs="lonlat")


def test_points_of_the_plane_are_all_columns_but_the_value(stations):
    stations.write_text("x,y,v\n0,1,5\n2,3,6\n4,5,7\n")
    own = load_points("file", path=stations, value="v")
    np.testing.assert_array_equal(own.points, [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(own.values["v"], [5, 6, 7])
    assert len(load_points("file", path=stations, value="v", n_points=2).points) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coordinates": ["mm", "lon", "lat"], "crs": "lonlat"}, "two columns, found 3"),
        ({"coordinates": [], "value": "mm"}, "has no column of coordinates"),
    ],
)
def test_coordinates_that_do_not_fit_are_one_line(stations, options, words):
    stations.write_text("mm\n1\n" if options["coordinates"] == [] else ROWS)
    with pytest.raises(ConfigError, match=words):
        load_points("file", path=stations, **options)


@pytest.mark.parametrize(
    ("first", "taken"), [("0 1 2", True), ("1 2 3", True), ("4.5 1 2", False), ("a b c", False)]
)
def test_a_column_without_a_name_counts_the_rows_or_is_refused(tmp_path, first, taken):
    rows = [f"{one},{place}.5,{2 * place},7" for place, one in enumerate(first.split())]
    path = tmp_path / "stations.csv"
    path.write_text("\n".join([",x,y,v", *rows]) + "\n")
    if taken:
        assert OwnPoints.open(path, values=["v"]).coordinates == ("x", "y")
    else:
        with pytest.raises(
            ConfigError, match="column 1 has no name and does not count the rows; name it in the first"
        ):
            OwnPoints.open(path, values=["v"])


@pytest.mark.parametrize(
    ("crs", "words"),
    [
        ("EPSG:5703", "crs: EPSG:5703 is NAVD88 height, a system of heights; wanted one of positions"),
        ("EPSG:4978", "crs: EPSG:4978 is WGS 84, a system of three coordinates from the Earth's center"),
    ],
)
def test_a_system_without_positions_is_refused_by_its_name(tmp_path, crs, words):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ConfigError, match=words):
        load_own_points(path=tmp_path / "a.csv", crs=crs)


def test_a_system_of_positions_and_heights_keeps_its_positions(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    assert load_own_points(path=tmp_path / "a.csv", crs="EPSG:7405").units["points"] == "m"
