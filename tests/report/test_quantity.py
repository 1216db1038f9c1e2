import pytest

from pipeline.artifacts.results.solution import KrigingResult, SystemResult
from pipeline.report.quantity import Quantity


def kriging(quantity: str, unit: str) -> KrigingResult:
    return KrigingResult(
        quantity=quantity, unit=unit, rmse=1.0, rmse_mean_predictor=2.0, n_held_out=3, log_likelihood=None
    )


@pytest.mark.parametrize(
    ("result", "label", "error"),
    [
        ({"quantity": "elevation", "unit": "m"}, "elevation (m)", "187 m"),
        ({"quantity": "log10 population", "unit": "log10 of people"}, "log₁₀ population", "187"),
        ({"quantity": "log10 population", "unit": ""}, "log₁₀ population", "187"),
        ({"quantity": "", "unit": "log10 of people"}, "log₁₀ people", "187"),
        ({"quantity": "", "unit": "m"}, "values (m)", "187 m"),
        ({"quantity": "density", "unit": ""}, "density", "187"),
        ({"quantity": "", "unit": ""}, "values", "187"),
        ({"quantity": "rain [mm]", "unit": "mm"}, "rain (mm)", "187 mm"),
        ({"quantity": "rain_( mm )", "unit": "mm"}, "rain (mm)", "187 mm"),
        ({"quantity": "rain [mm]", "unit": "cm"}, "rain [mm] (cm)", "187 cm"),
        ({"quantity": "rain [mm]", "unit": ""}, "rain [mm]", "187"),
        ({"quantity": "mm", "unit": "mm"}, "mm", "187 mm"),
        ({"quantity": "[mm]", "unit": "mm"}, "[mm] (mm)", "187 mm"),
    ],
)
def test_a_quantity_reads_well_on_axes_and_in_sentences(result, label, error):
    quantity = Quantity.of(kriging(**result))
    assert quantity.label == label
    assert quantity.error(187.1) == error


def test_an_error_of_a_logarithm_is_a_factor():
    assert Quantity.of(kriging("log10 population", "")).factor(0.412) == " (a factor of 2.6)"
    assert Quantity.of(kriging("elevation", "m")).factor(187.0) == ""


def test_a_result_that_predicts_nothing_has_no_quantity_of_its_own():
    system = SystemResult(right_hand_side="ones", n_columns=1, solution_norm=1.0)
    assert Quantity.of(system) == Quantity("values", "", logarithmic=False)
