"""The point sets that studies know by name: places with a quantity to predict."""

from functools import cache

import numpy as np
import pytest

from pipeline.data import PLACES
from pipeline.data.places import Airports, Cities, Geoid

PLACES_CASES = {
    "airports": Airports(n=501, seed=3),
    "cities": Cities(n=501, seed=3),
    "geoid": Geoid(n=501, seed=3),
}


@cache
def loaded(name):
    """The places of a case, which takes seconds for cities."""
    return PLACES_CASES[name].load()


def test_every_point_set_of_studies_has_a_case():
    assert {name: type(case) for name, case in PLACES_CASES.items()} == PLACES


@pytest.mark.parametrize("name", PLACES_CASES)
def test_places_are_as_many_as_wanted_with_a_finite_quantity_in_its_unit(name, small_geoid):
    case = PLACES_CASES[name]
    places = loaded(name)
    quantity = places.values[case.QUANTITY]
    assert len(places.points) == len(quantity) == 501
    assert np.isfinite(places.points).all()
    assert np.isfinite(quantity).all()
    assert np.ptp(quantity) > 0
    assert {"points", case.QUANTITY} <= set(places.units)


@pytest.mark.parametrize("name", PLACES_CASES)
def test_a_seed_fixes_the_places(name, small_geoid):
    again = type(PLACES_CASES[name])(n=501, seed=3).load()
    np.testing.assert_array_equal(again.points, loaded(name).points)


def test_a_population_that_is_not_recorded_counts_as_one_inhabitant():
    cities = Cities(n=20_000).load()
    assert cities.values["population"].min() == 0
    assert cities.values["log10 population"].min() == 0


def test_options_out_of_bounds_are_refused():
    with pytest.raises(ValueError, match=r"Airports: held_out must lie in \(0, 1\), not 1"):
        Airports(held_out=1)
