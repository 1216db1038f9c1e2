import shutil

import numpy as np
import pytest
from scipy.spatial import cKDTree

from pipeline.data import POINTS, geoid, load_points
from pipeline.data.airports import plausible
from pipeline.data.globe import unit_vectors
from pipeline.errors import ConfigError

OPTIONS = {
    "airports": {"n_points": 501},
    "cities": {"n_points": 501, "min_population": 15000},
    "geoid": {"n_points": 501},
    "sphere": {"n_points": 501},
    "cube": {"n_points": 501},
    "uniform_square": {"n_points": 501},
}
ON_THE_SPHERE = ["airports", "cities", "geoid", "sphere"]
SEEDED = [name for name in OPTIONS if name != "sphere"]


pytestmark = pytest.mark.usefixtures("small_geoid")


def test_every_point_set_has_a_case():
    # A file of one's own has its tests in test_own_points.py.
    assert {*OPTIONS, "file"} == set(POINTS)


@pytest.fixture(scope="module")
def all_airports():
    return load_points("airports")


@pytest.mark.parametrize("name", OPTIONS)
def test_points_and_values_are_finite_float64_with_units(name):
    loaded = load_points(name, **OPTIONS[name])
    assert loaded.points.dtype == np.float64
    assert len(loaded.points) == 501
    assert np.isfinite(loaded.points).all()
    assert set(loaded.units) == {"points", *loaded.values}
    assert loaded.description
    assert len(loaded.names) in (0, 501)
    for value in loaded.values.values():
        assert value.shape == (501,)
        assert value.dtype == np.float64
        assert np.isfinite(value).all()


@pytest.mark.parametrize("name", ON_THE_SPHERE)
def test_points_on_the_sphere_have_length_one(name):
    lengths = np.linalg.norm(load_points(name, **OPTIONS[name]).points, axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=4 * np.finfo(float).eps)


@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_fixes_the_points_and_another_changes_them(name):
    first, again, other = (load_points(name, **OPTIONS[name], seed=seed).points for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", SEEDED)
def test_fewer_points_of_a_seed_are_part_of_more(name):
    few, many = (load_points(name, **(OPTIONS[name] | {"n_points": n})).points for n in (37, 501))
    distance, _ = cKDTree(many).query(few)
    np.testing.assert_array_equal(distance, 0.0)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_single_point_is_allowed_and_none_is_refused(name):
    assert load_points(name, **(OPTIONS[name] | {"n_points": 1})).points.shape[0] == 1
    with pytest.raises(ConfigError, match="n_points: wanted"):
        load_points(name, **(OPTIONS[name] | {"n_points": 0}))


def test_all_airports_are_there_with_plausible_elevations_and_five_pairs_in_one_place(all_airports):
    assert all_airports.points.shape == (28298, 3)
    assert len(all_airports.points) - len(np.unique(all_airports.points, axis=0)) == 5
    elevation = all_airports.values["elevation"]
    assert -430 < elevation.min() < -300
    assert 4000 < elevation.max() < 5000


def test_values_and_names_stay_with_their_airport(all_airports):
    schiphol = next(i for i, name in enumerate(all_airports.names) if name.startswith("EHAM "))
    assert all_airports.values["elevation"][schiphol] == pytest.approx(-11 * 0.3048)
    assert all_airports.values["latitude"][schiphol] == pytest.approx(52.31, abs=0.01)
    few = load_points("airports", n_points=300, seed=4)
    everywhere = {name: i for i, name in enumerate(all_airports.names)}
    for i in (0, 150, 299):
        j = everywhere[few.names[i]]
        np.testing.assert_array_equal(few.points[i], all_airports.points[j])
        assert few.values["elevation"][i] == all_airports.values["elevation"][j]


def test_an_implausible_elevation_is_no_airport_s():
    heights = np.array([-430.0, 0.0, 5100.0, -451.0, 9000.0, np.nan, np.inf])
    np.testing.assert_array_equal(plausible(heights), [True, True, True, False, False, False, False])


def test_more_airports_than_there_are_is_refused_with_numbers():
    with pytest.raises(ConfigError, match=r"wanted 30000 of the world's airports .*choose 1 to 28298"):
        load_points("airports", n_points=30000)


def test_the_largest_city_is_a_large_one():
    cities = load_points("cities", min_population=15000)
    largest = np.argmax(cities.values["population"])
    assert cities.values["population"][largest] > 20e6
    assert cities.values["population"].min() >= 0


def test_a_selection_of_cities_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="min_population: found 100"):
        load_points("cities", min_population=100)


def test_known_places_have_known_vectors_and_distance():
    latitude, longitude = np.array([0.0, 0.0, 90.0, -90.0]), np.array([0.0, 90.0, 12.0, 180.0])
    wanted = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]]
    np.testing.assert_allclose(unit_vectors(latitude, longitude), wanted, atol=1e-15)
    london, new_york = unit_vectors(np.array([51.5074, 40.7128]), np.array([-0.1278, -74.0060]))
    chord = np.linalg.norm(london - new_york)
    assert 2 * np.arcsin(chord / 2) * 6371.0 == pytest.approx(5570, abs=1)


@pytest.mark.parametrize("n_points", [100, 1009])
def test_spiral_points_are_nearly_as_far_apart_as_points_on_a_sphere_can_be(n_points):
    points = load_points("sphere", n_points=n_points).points
    distance = cKDTree(points).query(points, k=2)[0][:, 1]
    densest = np.sqrt(8 * np.pi / (np.sqrt(3) * n_points))  # neighbors of a hexagonal packing
    assert distance.min() > 0.75 * densest
    assert np.linalg.norm(points.mean(axis=0)) < 2 / n_points


@pytest.mark.parametrize(("name", "n_dimensions"), [("uniform_square", 2), ("cube", 3)])
def test_random_points_fill_the_square_and_the_cube_evenly(name, n_dimensions):
    points = load_points(name, n_points=10007, seed=0).points
    assert points.shape == (10007, n_dimensions)
    assert points.min() >= 0
    assert points.max() < 1
    # The mean of n uniform numbers has the standard deviation 1 / sqrt(12 n).
    np.testing.assert_allclose(points.mean(axis=0), 0.5, atol=4 / np.sqrt(12 * 10007))


def test_the_geoid_is_read_from_south_to_north_and_west_to_east():
    loaded = load_points("geoid")
    assert len(loaded.points) == 684
    latitude, longitude, height = (loaded.values[name] for name in ("latitude", "longitude", "height"))
    assert (latitude[0], longitude[0], height[0]) == (-90, -180, 1)
    assert (latitude[37], longitude[37], height[37]) == (-80, -170, 38)
    assert (latitude[-1], longitude[-1], height[-1]) == (90, 170, 684)


def test_a_geoid_that_is_not_installed_is_fetched_once(small_geoid, tmp_path, monkeypatch):
    calls = []

    def unpack(package, folder):
        calls.append(package)
        (folder / geoid.FILE).parent.mkdir(parents=True)
        shutil.copy(small_geoid, folder / geoid.FILE)

    monkeypatch.setattr(geoid, "INSTALLED", tmp_path / "nowhere")
    monkeypatch.setattr(geoid, "unpack_debian_package", unpack)
    for _ in range(2):
        assert len(geoid.load_geoid(cache=tmp_path / "cache").points) == 684
    assert calls == ["proj-data"]


def test_a_damaged_geoid_is_refused(small_geoid):
    small_geoid.write_bytes(small_geoid.read_bytes()[:-1] + b"x")
    with pytest.raises(ConfigError, match="is not EGM96's grid"):
        load_points("geoid")


def test_a_geoid_that_cannot_be_had_says_what_to_install(tmp_path, monkeypatch):
    def refuse(package, folder):
        raise ConfigError("no network")

    monkeypatch.setattr(geoid, "INSTALLED", tmp_path / "nowhere")
    monkeypatch.setattr(geoid, "unpack_debian_package", refuse)
    with pytest.raises(ConfigError, match="apt-get install proj-data"):
        geoid.load_geoid(cache=tmp_path / "cache")
