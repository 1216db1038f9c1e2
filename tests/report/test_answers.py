import pytest

from pipeline.report.answers import answer_bits, answer_numbers, answer_steps, answers
from pipeline.report.answers.numbers import fit_text
from pipeline.report.tables import final_accuracy


@pytest.fixture
def steps(metrics):
    return lambda n_classes=10: answer_steps(metrics["training"], metrics["claims_of"], n_classes)


def accuracies(run, *values):
    for seed, value in zip(run["seeds"].values(), values, strict=True):
        seed["test"]["accuracy"] = value


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_headline_says_at_which_accuracy(steps):
    answer = steps()
    assert answer.headline == "16×"
    assert plain(answer.unit) == "fewer training steps, at 86.62 % test accuracy against 86.57 %"


def test_the_answer_has_steps_and_seconds_of_both(steps):
    text = plain(steps().text)
    assert "SGD with a batch of 64: 86.57 ± 0.19 % in 2,560 steps and 34.6 s" in text
    assert (
        "K-FAC with mixup and weight noise with a batch of 1,024: 86.62 ± 0.16 % in 160 steps and 34.6 s"
        in text
    )


def test_a_ratio_that_follows_from_the_batches_is_called_so(steps, metrics):
    assert "the ratio of steps is that of the batches" in steps().text
    metrics["training"]["kfac_smooth"]["epochs"] = 10
    assert "the ratio of steps" not in steps().text


@pytest.mark.parametrize(
    ("found", "verdict"),
    [((0.8660, 0.8662), "holds"), ((0.80, 0.93), "undecided"), ((0.70, 0.701), "does not hold")],
)
def test_the_headline_has_the_verdict_of_the_smoothing(steps, metrics, found, verdict):
    accuracies(metrics["training"]["sgd_small"], 0.8657, 0.8659)
    accuracies(metrics["training"]["kfac_smooth"], *found)
    answer = steps()
    assert answer.verdict == verdict
    assert "at most 0.3 points below" in answer.claim


def test_runs_at_chance_are_called_so(steps, metrics):
    for run in metrics["training"].values():
        accuracies(run, 0.1, 0.12)
    assert steps().verdict == "at chance"
    assert "guessing" in steps().claim
    best = answer_steps(metrics["training"], None, 10)
    assert best.unit == "test accuracy, no better than chance"
    assert "best" not in best.text
    assert steps(0).verdict != "at chance"


def test_the_table_marks_runs_at_chance_and_no_others(metrics):
    accuracies(metrics["training"]["kfac"], 0.149, 0.149)
    table = final_accuracy(metrics["training"], 10)
    assert [row[0].endswith("(at chance)") for row in table.rows] == [False, False, True, False]
    assert "At chance: below 15" in table.note
    accuracies(metrics["training"]["kfac"], 0.151, 0.151)
    assert "At chance" not in final_accuracy(metrics["training"], 10).note


def test_only_layers_that_gain_are_praised(metrics):
    for row in metrics["precision"]["kfac_smooth"]["timings"]:
        row["speedup"] = 0.97
    assert "gains most" not in answer_bits(metrics["precision"], {}).text


def test_kriging_says_what_it_predicts(metrics):
    text = plain(answer_numbers(metrics["matrices"], None).text)
    assert (
        "Kriging predicts the elevation of 700 held-out airports to 212 m RMSE; the mean predictor 432 m."
        in text
    )
    result = metrics["matrices"]["airports"]["result"]
    result.update(quantity="log10 population", unit="log10 of people", rmse=0.412, rmse_mean_predictor=0.62)
    text = plain(answer_numbers(metrics["matrices"], None).text)
    assert (
        "predicts the log₁₀ population of 700 held-out airports to 0.412 RMSE (a factor of 2.6); "
        "the mean predictor 0.620." in text
    )


def test_kriging_says_how_often_its_intervals_hold_and_what_was_fitted(metrics):
    matrix = metrics["matrices"]["airports"]
    matrix["result"]["coverage_95"] = 0.9471
    assert "Its 95 % intervals hold 94.7 % of them." in plain(answer_numbers(metrics["matrices"], None).text)
    assert fit_text(matrix) == ""
    matrix["fit"] = {"n": 25468, "intervals": {"length_scale": (0.0691, 0.0788, 0.0899)}}
    assert fit_text(matrix) == (
        "Fitted by maximum likelihood to 25,468 standardized values, with intervals of two standard errors: "
        "length scale 0.0788 (0.0691 to 0.0899)."
    )


def test_a_missed_tolerance_reaches_the_answer(metrics):
    metrics["matrices"]["airports"]["compress"].update(relative_error=3.3e-5, missed=True)
    assert "(relative error 3.3 × 10⁻⁵, asked: 10⁻⁶)" in plain(answer_numbers(metrics["matrices"], None).text)


def test_a_classifier_at_chance_is_called_so(metrics):
    metrics["matrices"]["embeddings"]["result"]["accuracy"] = 0.1
    numbers = answers(metrics)[2]
    assert "10.00 % correctly, no better than chance, beside" in plain(numbers.text)


def test_two_sizes_give_no_exponent(metrics):
    assert "grows as" in answer_numbers({}, metrics["scaling"]).text
    metrics["scaling"]["rows"] = metrics["scaling"]["rows"][:2]
    assert answer_numbers({}, metrics["scaling"]) is None


def test_the_headline_is_of_a_matrix_that_was_approximated_if_any_was(metrics):
    matrices = metrics["matrices"]
    for name in ("airports", "capacitance"):
        matrices[name]["structure"]["blocks"] = [[0, 1, 0, 1, -1]]
    assert answer_numbers(matrices, None).unit == "less memory for embeddings"
    del matrices["embeddings"]
    assert answer_numbers(matrices, None).unit == "less memory for airports, with nothing approximated"


def test_a_matrix_of_panels_is_not_given_the_shape_of_its_points(metrics):
    matrices = {"capacitance": metrics["matrices"]["capacitance"]}
    assert "matrix, 12,288 × 12,288, takes" in answer_numbers(matrices, None).text
    matrices["capacitance"]["compress"]["n_rows"] = 36864
    assert "matrix, 12,288 panels with 36,864 quadrature points, takes" in answer_numbers(matrices, None).text
