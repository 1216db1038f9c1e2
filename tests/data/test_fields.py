"""Predictions whose columns have names that NetCDF refuses."""

import netCDF4
import numpy as np

from pipeline.data.fields import Field


def test_names_that_netcdf_refuses_are_written_by_others_that_say_so(tmp_path):
    places = {"x": np.arange(3.0), "y/km": np.arange(3.0)}
    quantities = {
        name: np.arange(3.0) + i
        for i, name in enumerate(("mm/day", "mm_day", "_-a", "-a", "$(touch x)", "Höhe"))
    }
    Field(places, quantities, {"mm/day": "mm/day"}, {"place": 3}, "plane").write(tmp_path / "found.nc")
    with netCDF4.Dataset(tmp_path / "found.nc") as file:
        told = {getattr(variable, "long_name", name): variable for name, variable in file.variables.items()}
        assert told.keys() == {*places, *quantities}
        for name, values in {**places, **quantities}.items():
            np.testing.assert_array_equal(told[name][:], values)
        assert told["mm/day"].units == "mm/day"
        assert {"Höhe", "x", "mm_day", "_-a"} <= file.variables.keys()
