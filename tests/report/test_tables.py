import pytest

from pipeline.artifacts.results.network import EpochRow
from pipeline.report import layer_tables, tables
from pipeline.report.formatting import DASH
from pipeline.report.layer_tables import layer_bars, layer_times, rounding
from pipeline.report.metrics import Converted, MatrixMetrics, RunMetrics
from pipeline.report.prediction_tables import changed_predictions, confusions, plans
from pipeline.report.runs import accuracy_on_test, spread_text
from pipeline.report.spread import Spread


@pytest.fixture
def network(metrics) -> dict:
    return metrics["precision"]["kfac_smooth"]


def of(network: dict) -> Converted:
    return Converted.model_validate(network)


def runs_of(training: dict) -> dict[str, RunMetrics]:
    return {name: RunMetrics.model_validate(run) for name, run in training.items()}


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_bars_have_the_errors_of_the_plans_that_they_time_beside_them(network):
    added, output, noise = layer_bars(of(network)).rows[1][2:]
    assert added == (layer_tables.f.relative(2.9e-4),) * 2
    assert output == tuple(layer_tables.f.relative(2.9e-4 * 1.2 * factor) for factor in (1, 2))
    assert noise == ("69.7", "63.7")
    del network["plans"]["1"]
    assert layer_bars(of(network)).rows[1][4] == (DASH, "63.7")
    for error in network["plans"]["64"]["errors"]:
        error["sqnr_db"] = None
    assert layer_bars(of(network)).rows[1][3:] == ((DASH, output[1]), (DASH, DASH))


def test_the_conversion_table_names_its_errors_as_those_of_the_weights(network):
    table = rounding(of(network))
    assert "Weights' error" in [column.title for column in table.columns]
    assert "of the weights" in table.note


def test_the_whisker_is_the_interval_of_the_speedup(network):
    network["timings"][0]["interval"] = [1.0, 1.5]
    network["timings"][1]["interval"] = None
    first, second = layer_bars(of(network)).rows[0][1]
    assert first.interval[1] / first.interval[0] == pytest.approx(1.5)
    assert first.interval[0] == pytest.approx(first.reference)
    assert second.interval is None


def test_a_reason_does_not_repeat_the_speedup_of_its_bar(network):
    reasons = dict(layer_bars(of(network)).details[0])
    assert reasons["Batch 64"].startswith(
        "FP16 makes no clear difference with direct convolution of FP16 weights. Both"
    )
    assert "0.97" not in reasons["Batch 64"]
    # Those of former versions are one sentence, with a colon behind the outcome.
    network["timings"][0]["reason"] = "FP16 wins, 1.25x by direct convolution with FP16 weights: L2-bound."
    assert dict(layer_bars(of(network)).details[0])["Batch 1"] == (
        "FP16 wins by direct convolution with FP16 weights: L2-bound."
    )
    network["timings"][0]["reason"] = "no clear difference, 0.99x with pooling: L1-bound."
    assert (
        dict(layer_bars(of(network)).details[0])["Batch 1"] == "No clear difference with pooling: L1-bound."
    )
    network["timings"][0]["reason"] = "FP16 wins, 1.25x. The layer is L1-bound. FP16 took 1 ms."
    assert dict(layer_bars(of(network)).details[0])["Batch 1"].startswith("FP16 wins. The layer")
    network["timings"][0]["reason"] = "no clear difference, 0.97x: compute-bound at 190 GFLOP/s."
    assert (
        dict(layer_bars(of(network)).details[0])["Batch 1"]
        == "No clear difference: compute-bound at 190 GFLOP/s."
    )
    network["timings"][0]["reason"] = network["timings"][1]["reason"] = "The same, 2.0x faster or not."
    assert layer_bars(of(network)).details[0] == (("", "The same, 2.0x faster or not."),)
    network["timings"][0]["reason"] = network["timings"][1]["reason"] = ""
    assert layer_bars(of(network)).details[0] == ()


def test_routines_that_are_twins_share_a_name(network):
    assert layer_times(of(network)).rows[0][-1] == "direct conv 16-wide, avx512"
    network["timings"][0]["routine_fp16"] = "matrix-vector 32 outputs wide, fp16 weights, avx512"
    assert (
        layer_times(of(network)).rows[0][-1] == "direct conv 16-wide, avx512 → matrix-vector 32-wide, avx512"
    )


def test_levels_that_keep_nothing_are_left_out(metrics):
    matrix = metrics["matrices"]["airports"]
    kept = {"level": 2, "boxes": 16, "unknowns": 50, "skeletons": 20, "bytes": 900}
    empty = kept | {"level": 0, "skeletons": 0, "bytes": 0}
    matrix["compress"]["levels"] = [empty, kept]
    assert [row[0] for row in tables.levels(MatrixMetrics.model_validate(matrix)).rows] == ["2"]
    matrix["compress"]["levels"] = [empty]
    assert not tables.levels(MatrixMetrics.model_validate(matrix))


def made(**parts) -> RunMetrics:
    usual = {
        "label": "",
        "optimizer": "sgd",
        "batch_size": 64,
        "train_samples": 100,
        "epochs": 2,
        "seeds": {},
    }
    return RunMetrics.model_validate(usual | parts)


def crossed():
    def run(optimizer, batch, accuracy, images=100):
        seeds = {str(i): {"test": {"accuracy": accuracy + 0.001 * i, "loss": None}} for i in range(2)}
        return made(optimizer=optimizer, batch_size=batch, train_samples=images, seeds=seeds)

    return {
        "a": run("sgd", 64, 0.86),
        "b": run("sgd", 1024, 0.84),
        "c": run("kfac", 64, 0.85),
        "d": run("kfac", 1024, 0.87),
        "all": run("kfac", 1024, 0.99, images=1000),
        "once more": run("kfac", 1024, 0.70),
    }


def test_methods_stand_against_batches_and_other_amounts_of_data_stay_out():
    table = tables.methods_by_batch(crossed(), accuracy_on_test, "caption", 2)
    assert [column.title for column in table.columns] == ["Method", "Batch 64", "Batch 1,024"]
    assert [row[0] for row in table.rows] == ["SGD", "K-FAC"]
    assert table.rows[1][2].startswith("87.0")
    assert not any("99" in cell for row in table.rows for cell in row)


def test_a_study_that_crosses_nothing_has_no_such_table():
    runs = crossed()
    assert tables.methods_by_batch({"a": runs["a"], "d": runs["d"]}, accuracy_on_test, "caption", 2) is None
    assert tables.methods_by_batch({"a": runs["a"], "c": runs["c"]}, accuracy_on_test, "caption", 2) is None
    assert tables.methods_by_batch({}, accuracy_on_test, "caption", 2) is None


def test_speed_is_counted_to_the_target_and_a_dash_where_it_was_missed():
    blank = dict.fromkeys(EpochRow.model_fields, 0)
    history = [
        blank | {"steps": 10, "seconds": 1.0, "train_loss": 0.5},
        blank | {"steps": 20, "seconds": 2.0, "train_loss": 0.2},
    ]
    flat = {"largest_eigenvalue": 12.345, "perturbation": 0.5, "n_samples": 100}
    runs = {
        "fast": made(seeds={"0": {"sharpness": flat, "history": history}}),
        "none": made(seeds={"0": {}}),
    }
    fast, none = tables.minima(runs, 0.3).rows
    assert plain(fast[1]) == "2.00 s"
    assert fast[2] == "20"
    assert fast[4] == "12.3"
    assert set(none[1:]) == {DASH}
    assert tables.minima({"none": runs["none"]}, 0.3) is None
    titles = [column.title for column in tables.minima(runs, None).columns]
    assert titles == ["Run", "Validation acc. (%)", "Largest curvature", "Rise under noise"]
    assert [len(row) for row in tables.minima(runs, None).rows] == [4, 4]


def test_times_beside_other_jobs_are_marked(metrics):
    training = metrics["training"]
    assert "†" not in tables.final_accuracy(runs_of(training)).note
    training["kfac"]["seeds"]["1"]["alone"] = False
    training["sgd_small"]["seeds"]["1"]["alone"] = True
    table = tables.final_accuracy(runs_of(training))
    assert [row[8].endswith("†") for row in table.rows] == [False, False, True, False]
    assert "† : other jobs" not in table.note
    assert "†: other jobs of the study ran on the same machine" in table.note


def test_a_deviation_is_never_printed_as_zero():
    def text(values, decimals):
        return plain(spread_text(Spread.of(values), decimals))

    assert text((86.44, 86.48), 1) == "86.46 ± 0.03"
    assert text((86.4, 86.6), 1) == "86.5 ± 0.1"
    assert text((0.5, 0.50004), 2) == "0.50002 ± 0.00003"
    assert text((0.5, 0.5), 2) == "0.50 ± 0"
    assert text((9.2e-7,), 3) == "9.2 × 10⁻⁷"
    assert text((0.0,), 3) == "0.000"


def test_cells_keep_the_numbers_behind_their_texts(metrics):
    row = tables.final_accuracy(runs_of(metrics["training"])).rows[0]
    assert [cell.value for cell in row[2:]] == pytest.approx(
        [64, 2560, 99.3, 86.575, 0.534, 0.514, 34.6, 2], rel=1e-3
    )


def test_factors_are_told_layer_by_layer_of_the_first_seed():
    def seed(trace):
        layers = {
            "conv": {"pi": 0.5, "trace_A": trace, "condition_A": 30.0, "trace_G": 1.0, "condition_G": 4.0}
        }
        return {"layers": layers | {"norm": {}}}

    sgd = made(seeds={"0": {}})
    table = tables.factors({"a": made(seeds={"0": seed(12.345), "1": seed(99.0)}), "sgd": sgd})
    assert table.rows[0] == ("a", "conv", "0.500", "12.3", "30.0", "1.00", "4.00")
    assert [row[1] for row in table.rows] == ["conv", "norm"]
    assert set(table.rows[1][2:]) == {DASH}
    assert not tables.factors({"sgd": sgd})


def test_every_table_of_a_network_has_a_row_for_what_it_is_about(network, metrics):
    classes = metrics["study"]["dataset"]["classes"]
    growth = layer_tables.error_growth(of(network))
    assert [row[:2] for row in growth.rows] == [
        (layer["name"], batch) for batch in ("1", "64") for layer in network["layers"]
    ]
    assert growth.rows[0][2:5] == (layer_tables.f.relative(2.9e-4),) * 2 + (layer_tables.f.times(1.1),)
    chosen = layer_tables.candidates(of(network))
    assert [(row[2], row[-1]) for row in chosen.rows] == [("direct fp32", ""), ("winograd4 fp16", "chosen")]
    for batch, changed in zip(("1", "64"), changed_predictions(of(network), classes).rows, strict=True):
        assert changed[:5] == (batch, "1,234", "top", "top", "shirt")
    (alike,) = confusions(of(network), classes)
    assert "batch 1 and 64" in alike.caption
    assert alike.rows == [("top", "top", "860", "859", "−1"), ("top", "shirt", "15", "16", "+1")]
    assert alike.folded
    (device,) = layer_tables.device_times(of(network)).rows
    assert device[-2:] == ("yes", "s16816gemm")
    assert "GPU of a node" in layer_tables.device_times(of(network)).caption


def test_a_network_without_these_figures_has_none_of_the_tables(network):
    bare = of(network | {"plans": {}, "candidates": [], "device_timings": [], "timings": []})
    for table in (layer_tables.error_growth, layer_tables.candidates, layer_tables.device_times, layer_times):
        assert not table(bare)
    assert not changed_predictions(bare, ())
    assert confusions(bare, ()) == []
    assert not plans(bare, {})


def test_every_plan_has_its_speed_and_its_accuracy_with_an_interval(network):
    network["plans"]["1"]["accuracy"]["interval_fp16"] = [0.8604, 0.8737]
    first, second = plans(of(network), {1: 1.25, 64: 2.0}).rows
    assert first[:2] == ("1", layer_tables.f.times(1.25))
    assert first[3].replace("\N{NO-BREAK SPACE}", " ") == "86.72 % (86.04 to 87.37)"
    assert first[4] == "−0.010 (−0.040 to +0.020)"
    assert (first[5], second[5]) == ("3 of 10,000", "4 of 10,000")
    assert (first[6], second[7]) == (layer_tables.f.relative(0.0043), "1")


def test_without_labels_a_plan_has_no_columns_of_accuracy(network):
    for plan in network["plans"].values():
        plan["accuracy"] = None
    table = plans(of(network), {1: 1.25, 64: 2.0})
    assert [column.title for column in table.columns] == [
        "Plan for batch", "Speedup", "Output error", "Too large for FP16",
    ]  # fmt: skip
    assert table.rows[0][2] == layer_tables.f.relative(0.0043)
    assert "points" not in table.note


def test_the_error_of_what_varies_stands_beside_that_of_the_whole_where_it_is_known(network):
    assert "Error relative to variation" not in plans(of(network), {}).note
    network["plans"]["1"]["verification"]["varying_error"] = 0.31
    table = plans(of(network), {})
    assert [column.title for column in table.columns][-2] == "Error relative to variation"
    assert [row[-2] for row in table.rows] == [layer_tables.f.relative(0.31), DASH]
    assert "deviations from their mean" in table.note


def test_errors_on_noise_are_said_to_be_such(network):
    assert "noise" not in plans(of(network), {}).note
    assert "The inputs are noise" in plans(of(network | {"generated_inputs": True}), {}).note


def test_ticks_end_within_the_scale_of_the_bars(network):
    network["timings"][0]["predicted_speedup"] = 30.0
    first = layer_bars(of(network)).rows[0][1][0]
    assert 0.9 < first.mark < 0.97


@pytest.mark.parametrize("side", ["fp32", "fp16"])
def test_a_layer_faster_than_its_bound_is_marked(network, side):
    row = network["timings"][0]

    def bound_by(factor):
        rows = [row | {f"bound_seconds_{side}": factor * row[f"seconds_{side}"]}]
        table = layer_times(of(network | {"timings": rows}))
        return table.rows[0][-2].endswith(" (exceeded)"), "Exceeded:" in table.note

    assert bound_by(1.04) == (False, False)
    assert bound_by(1.06) == (True, True)


def test_plans_that_answer_differently_have_a_confusion_each(network):
    network["plans"]["64"]["predictions"]["confusion_after"][1][1] += 3
    first, second = confusions(of(network), ())
    assert [table.caption.rpartition(" ")[2] for table in (first, second)] == ["1", "64"]
    assert second.rows[0] == ("1", "1", "860", "863", "+3")
    assert second.rows[1:] == first.rows


def test_a_confusion_that_stays_has_no_table(network):
    for plan in network["plans"].values():
        plan["predictions"]["confusion_after"] = plan["predictions"]["confusion_before"]
    assert confusions(of(network), ()) == []


def test_samples_that_count_although_they_were_disturbed_are_told(network):
    def note(*disturbed):
        row = network["timings"][0]
        return plain(
            layer_times(of(network | {"timings": [row | {"n_disturbed": n} for n in disturbed]})).note
        )

    assert note(0, 2, 5).endswith("hardly any others: 7 samples of 2 rows.")
    assert note(1).endswith("hardly any others: 1 sample of 1 row.")
    assert "disturbed" not in note(0)


def test_a_time_to_target_tells_by_how_many_seeds_it_was_reached(metrics):
    for run in metrics["training"].values():
        for seed in run["seeds"].values():
            seed["sharpness"] = {"largest_eigenvalue": 1.0, "perturbation": 0.1}
    table = tables.minima(runs_of(metrics["training"]), 1e9)
    assert "seeds" not in table.rows[0][1]
    for row in metrics["training"]["sgd_small"]["seeds"]["0"]["history"]:
        row["train_loss"] = 2e9
    n_seeds = len(metrics["training"]["sgd_small"]["seeds"])
    found = tables.minima(runs_of(metrics["training"]), 1e9).rows[0][1]
    assert plain(found).endswith(f" ({n_seeds - 1} of {n_seeds} seeds)")
