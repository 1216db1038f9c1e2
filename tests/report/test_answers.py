import copy
import re

import pytest

from pipeline.report.answers import answer_bits, answer_numbers, answer_steps, answers
from pipeline.report.answers.numbers import fit_text, told
from pipeline.report.content import CoreAnswer
from pipeline.report.metrics import MatrixMetrics, Metrics
from pipeline.report.tables import final_accuracy


def study(parts: dict) -> Metrics:
    return Metrics.model_validate({"study": {"name": "default"}} | parts)


def numbers(matrices: dict, scaling: dict | None = None) -> CoreAnswer | None:
    found = study({"matrices": matrices, "scaling": scaling})
    return answer_numbers(found.matrices, found.scaling)


@pytest.fixture
def steps(metrics):
    def answer(n_classes=10):
        found = study(metrics)
        return answer_steps(found.training, found.claims_of, n_classes)

    return answer


def accuracies(run, *values):
    for seed, value in zip(run["seeds"].values(), values, strict=True):
        seed["test"]["accuracy"] = value


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_headline_is_the_time_until_an_equal_loss(steps, metrics):
    # Both end below 0.28, the loss of large-batch SGD: K-FAC after epoch 6, SGD after epoch 10, of 1.7 s each.
    answer = steps()
    assert answer.headline == "0.60×"
    assert answer.unit == "the time and 0.037× the steps of SGD with batch 64 to an equal training loss"
    assert plain(answer.text) == (
        "K-FAC with batch 1,024 needs 10.2 s and 48 steps to reach a training loss of 0.280, and SGD with batch 64 "
        "needs 17.0 s and 1,280 steps."
    )
    for seed in metrics["training"]["kfac"]["seeds"].values():
        for row in seed["history"]:
            row["seconds"] *= 4
    assert steps().headline == "2.4×"
    assert steps().findings[0].verdict == "does not hold"


def test_times_beside_other_jobs_are_said_to_be_such(steps, metrics):
    assert "other jobs" not in steps().text
    metrics["training"]["kfac"]["seeds"]["0"]["alone"] = False
    assert steps().text.endswith("(other jobs ran meanwhile: times may be too long).")


def test_where_a_loss_is_not_reached_by_both_the_ends_are_told(steps, metrics):
    for seed in metrics["training"]["sgd_large"]["seeds"].values():
        seed["history"][-1]["train_loss"] = 1e-9
    answer = steps()
    assert plain(answer.headline) == "85.91 %"
    assert "SGD with batch 64 ends at 86.57 ± 0.19 % in 2,560 steps and 34.6 s." in plain(answer.text)


@pytest.mark.parametrize("name", ["kfac", "sgd_small"])
def test_no_ratio_to_an_equal_loss_leads_where_a_seed_does_not_get_there(steps, metrics, name):
    for row in metrics["training"][name]["seeds"]["1"]["history"]:
        row["train_loss"] = 9.0
    answer = steps()
    assert answer.unit == "test accuracy"
    assert "reach a training loss" not in answer.text


@pytest.mark.parametrize(
    ("found", "verdict"),
    [((0.8660, 0.8663), "holds"), ((0.80, 0.93), "undecided"), ((0.70, 0.701), "does not hold")],
)
def test_the_headline_has_the_verdict_of_the_smoothing(steps, metrics, found, verdict):
    accuracies(metrics["training"]["sgd_small"], 0.8657, 0.8659)
    accuracies(metrics["training"]["kfac_smooth"], *found)
    restored = steps().findings[1]
    assert restored.verdict == verdict
    assert "at most 0.3 points below" in restored.claim


def test_runs_at_chance_are_called_so(steps, metrics):
    for run in metrics["training"].values():
        accuracies(run, 0.1, 0.12)
    (found,) = steps().findings
    assert found.verdict == "at chance"
    assert "guessing" in found.claim
    best = answer_steps(study(metrics).training, None, 10)
    assert best.unit == "test accuracy, no better than chance"
    assert "best" not in best.text
    assert steps(0).findings[0].verdict != "at chance"


def test_the_table_marks_runs_at_chance_and_no_others(metrics):
    accuracies(metrics["training"]["kfac"], 0.149, 0.149)
    table = final_accuracy(study(metrics).training, 10)
    assert [row[0].endswith("(at chance)") for row in table.rows] == [False, False, True, False]
    assert "At chance: below 15" in table.note
    accuracies(metrics["training"]["kfac"], 0.151, 0.151)
    assert "At chance" not in final_accuracy(study(metrics).training, 10).note


def test_half_precision_leads_with_speed_and_error_and_not_with_file_sizes(metrics):
    answer = answer_bits(study(metrics).precision, study(metrics).training, 10)
    assert plain(answer.unit) == "the speed of FP32 at batch 1, with outputs off by 0.43 %"
    text = plain(answer.text)
    assert "MB" not in text
    assert "its outputs differ by at most 0.86 %; its test accuracy goes from 86.73 % to 86.71 %" in text
    network = metrics["precision"]["kfac_smooth"]
    network["plans"]["1"]["verification"]["varying_error"] = 0.3
    network |= {"generated_inputs": True, "alone": False}
    told = answer_bits(study(metrics).precision, study(metrics).training, 10)
    assert plain(told.unit).endswith("with outputs off by 0.43 % for inputs that are noise")
    assert "at batch 64 (beside other work); its outputs" in told.text
    assert "0.86 %, 30 % of the variation between samples for inputs that are noise, which tell" in plain(
        told.text
    )
    metrics["precision"]["kfac_smooth"]["timings"] = []
    untimed = answer_bits(study(metrics).precision, {}, 10)
    assert untimed.unit == "test accuracy at FP16"
    assert "was not timed" in untimed.text
    assert "the network kfac_smooth" in untimed.text


def said(metrics: dict, name: str) -> str:
    """What a matrix was for, as its own part of the page says it."""
    return plain(told(name, study(metrics).matrices[name]).sentence)


def test_every_answer_is_one_sentence(metrics):
    """However much is known of a result: the rest stands further down."""
    metrics["matrices"]["airports"]["result"]["coverage_95"] = 0.9471
    for part in (
        {},
        {"matrices": {}},
        *({"matrices": {name: it}} for name, it in metrics["matrices"].items()),
    ):
        for answer in answers(study(metrics | part)):
            assert answer.text.endswith(".")
            assert not re.search(r"[.?!] ", answer.text), answer.text


def test_the_first_screen_gives_one_error_of_what_kriging_predicts(metrics):
    text = plain(numbers(metrics["matrices"]).text)
    assert text.endswith(
        "; kriging with airports predicts the elevation of 700 held-out points to 212 m RMSE."
    )


def test_kriging_says_what_it_predicts(metrics):
    text = said(metrics, "airports")
    assert (
        "Kriging predicts the elevation of 700 held-out airports to 212 m RMSE; their mean would give 432 m."
        in text
    )
    result = metrics["matrices"]["airports"]["result"]
    result.update(quantity="log10 population", unit="log10 of people", rmse=0.412, rmse_mean_predictor=0.62)
    text = said(metrics, "airports")
    assert (
        "predicts the log₁₀ population of 700 held-out airports to 0.412 RMSE (a factor of 2.6); "
        "their mean would give 0.620." in text
    )


def test_kriging_says_how_often_its_intervals_hold_and_what_was_fitted(metrics):
    matrix = metrics["matrices"]["airports"]
    matrix["result"]["coverage_95"] = 0.9471
    assert "Its 95 % intervals hold 94.7 % of them." in said(metrics, "airports")
    assert fit_text(MatrixMetrics.model_validate(matrix)) == ""
    matrix["fit"] = {
        "log_likelihood": -1.0, "steps": 9, "n": 25468, "intervals": {"length_scale": (0.0691, 0.0788, 0.0899)}
    }  # fmt: skip
    assert fit_text(MatrixMetrics.model_validate(matrix)) == (
        "Fitted by maximum likelihood to 25,468 standardized values, with intervals of two standard errors: "
        "length scale 0.0788 (0.0691 to 0.0899)."
    )


def test_a_missed_tolerance_reaches_the_answer(metrics):
    metrics["matrices"]["airports"]["compress"].update(relative_error=3.3e-5, missed=True)
    assert "(relative error 3.3 × 10⁻⁵, asked: 10⁻⁶)" in plain(numbers(metrics["matrices"]).text)


def test_a_classifier_at_chance_is_called_so(metrics):
    embeddings = metrics["matrices"]["embeddings"]
    embeddings["result"]["accuracy"] = 0.1
    metrics["matrices"] = {"embeddings": embeddings}
    third = answers(study(metrics))[2]
    assert "10.00 % correctly, no better than chance, beside" in plain(third.text)


def test_a_solution_far_from_its_exact_rows_is_a_verdict(metrics):
    matrix = metrics["matrices"]["airports"]
    assert numbers(metrics["matrices"]).findings == ()
    matrix["solve"]["exact_residual"] = 9.9 * matrix["compress"]["tolerance"]
    assert numbers(metrics["matrices"]).findings == ()
    matrix["solve"]["exact_residual"] = 3.2e-4
    (found,) = numbers(metrics["matrices"]).findings
    assert found.verdict == "does not hold"
    assert "the residual is 3.2 × 10⁻⁴, 320 times the tolerance of 10⁻⁶" in plain(found.claim)
    matrix["solve"]["tolerance"] = 1e-4
    assert numbers(metrics["matrices"]).findings == ()


def test_three_sizes_give_no_exponent(metrics):
    rows = metrics["scaling"]["rows"]
    rows.append({key: 2 * value for key, value in rows[-1].items()})
    assert "grows as N to the power" in numbers({}, metrics["scaling"]).text
    metrics["scaling"]["rows"] = rows[:3]
    assert numbers({}, metrics["scaling"]) is None


def test_the_headline_is_of_a_matrix_that_was_approximated_if_any_was(metrics):
    matrices = metrics["matrices"]
    for name in ("airports", "capacitance"):
        matrices[name]["structure"]["blocks"] = [[0, 1, 0, 1, -1]]
    assert numbers(matrices).unit == "less memory for embeddings"
    del matrices["embeddings"]
    assert numbers(matrices).unit == "less memory for airports, with nothing approximated"


def test_a_matrix_that_takes_more_than_a_dense_one_is_not_said_to_take_less(metrics):
    matrices = {"capacitance": metrics["matrices"]["capacitance"]}
    compress = matrices["capacitance"]["compress"]
    compress["n_bytes"] = 3 * compress["dense_bytes"]
    answer = numbers(matrices)
    assert (plain(answer.headline), answer.unit) == ("0.66031", "× 4πε₀: capacitance of capacitance")
    matrices["capacitance"]["result"] = None
    answer = numbers(matrices)
    assert (plain(answer.headline), answer.unit) == ("3.0×", "the memory of a dense matrix for capacitance")


def test_a_small_matrix_that_saves_no_memory_leads_with_what_it_was_for(metrics):
    matrices = {"airports": metrics["matrices"]["airports"]}
    compress = matrices["airports"]["compress"]
    compress["n_bytes"] = 2 * compress["dense_bytes"]
    answer = numbers(matrices)
    rmse = matrices["airports"]["result"]["rmse"]
    assert plain(answer.headline).split()[0].replace(",", "") == f"{rmse:.3g}"
    assert answer.unit == "RMSE of the elevation at held-out points of airports"
    assert "instead of" in answer.text


def test_results_of_a_mesh_of_ones_own_lead_and_a_loss_of_memory_does_not(metrics):
    charge = metrics["matrices"]["capacitance"] | {"points": "mesh"}
    wave = copy.deepcopy(charge) | {
        "task": "scattering",
        "result": {
            "wavenumber": 3.8, "condition": "soft", "triangles_per_wavelength": 10.0, "forward": 1.0,
            "backward": 0.5, "cross_section": 2.1012, "power_imbalance": 0.004,
        },
    }  # fmt: skip
    for matrix, ratio in ((charge, 0.98), (wave, 0.7)):
        matrix["compress"]["n_bytes"] = round(matrix["compress"]["dense_bytes"] / ratio)
    answer = numbers({"wave": wave, "charge": charge})
    assert plain(answer.headline) == "2.101"
    assert plain(answer.unit) == (
        "scattering cross-section of wave, in squared units of the mesh; × 4πε₀: capacitance of charge 0.66031"
    )
    assert "the scattering cross-section of wave is 2.101 squared units" in plain(answer.text)
    assert "memory of a dense" not in answer.unit


def test_the_error_at_own_points_leads_and_the_memory_follows(metrics):
    own = metrics["matrices"]["airports"] | {"points": "file"}
    answer = numbers({"rain": own})
    assert plain(answer.headline) == "212 m"
    assert plain(answer.unit) == "RMSE of the elevation at held-out points of rain; 53× less memory for rain"


def test_lengths_of_the_globe_are_in_kilometers_and_noise_in_the_unit_of_the_values(metrics):
    matrix = metrics["matrices"]["airports"] | {"on_globe": True}
    matrix["result"]["deviation"] = 10.0
    intervals = {
        "length_scale": (0.0286, 0.119, 0.495),
        "variance": (0.25, 1.0, 4.0),
        "nugget": (0.01, 0.04, 0.09),
    }
    matrix["fit"] = {"log_likelihood": -1.0, "steps": 9, "n": 9000, "intervals": intervals}
    text = plain(fit_text(MatrixMetrics.model_validate(matrix)))
    # 6371 km times each, and 10 m times each root.
    assert "radii of the Earth, which are 758 km (182 to 3,150 km)" in text
    assert "a standard deviation of the noise of 2.00 m (1.00 to 3.00 m)" in text
    assert "a standard deviation of the field of 10.0 m (5.00 to 20.0 m)" in text


def test_a_file_of_predictions_is_told_with_its_folder(metrics):
    metrics["matrices"]["airports"]["result"].update(predictions="predictions.nc", n_predicted=9)
    text = told("airports", study(metrics).matrices["airports"], study="rain").sentence
    assert "The file results/rain/solve/airports/predictions.nc holds mean" in text


def test_a_matrix_of_panels_is_not_given_the_shape_of_its_points(metrics):
    matrices = {"capacitance": metrics["matrices"]["capacitance"]}
    assert "matrix, 12,288 × 12,288, takes" in numbers(matrices).text
    matrices["capacitance"]["compress"]["n_rows"] = 36864
    assert "matrix, 12,288 panels with 36,864 quadrature points, takes" in numbers(matrices).text
