import pytest

from pipeline.report.quantity import Quantity


@pytest.mark.parametrize(
    ("result", "label", "error"),
    [
        ({"quantity": "elevation", "unit": "m"}, "elevation (m)", "187 m"),
        ({"quantity": "log10 population", "unit": "log10 of people"}, "log₁₀ population", "187"),
        ({"quantity": "log10 population"}, "log₁₀ population", "187"),
        ({"unit": "log10 of people"}, "log₁₀ people", "187"),
        ({"unit": "m"}, "values (m)", "187 m"),
        ({"quantity": "density"}, "density", "187"),
        ({}, "values", "187"),
    ],
)
def test_a_quantity_reads_well_on_axes_and_in_sentences(result, label, error):
    quantity = Quantity.of(result)
    assert quantity.label == label
    assert quantity.error(187.1) == error


def test_an_error_of_a_logarithm_is_a_factor():
    assert Quantity.of({"quantity": "log10 population"}).factor(0.412) == " (a factor of 2.6)"
    assert Quantity.of({"quantity": "elevation", "unit": "m"}).factor(187.0) == ""
