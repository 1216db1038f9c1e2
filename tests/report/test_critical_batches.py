import pytest

from pipeline.artifacts.results.critical_batch import Prediction
from pipeline.report.critical_batches import LossRange, critical_batches, verdict, where_it_loses
from pipeline.report.metrics import RunMetrics, SeedResult


def run(batch, *accuracies):
    return RunMetrics.model_validate(
        {
            "label": f"SGD, batch {batch}",
            "optimizer": "sgd",
            "batch_size": batch,
            "train_samples": 100,
            "epochs": 2,
            "seeds": {
                str(seed): {"test": {"accuracy": accuracy, "loss": 0.5}}
                for seed, accuracy in enumerate(accuracies)
            },
        }
    )


def prediction(batch, *seeds):
    return Prediction.model_validate(
        {
            "run": "small",
            "batch_size": 64,
            "seeds": [
                {"seed": seed, "noise_scales": [], "critical_batch": found}
                for seed, found in enumerate(seeds)
            ],
            "critical_batch": batch,
        }
    )


def plain(cells):
    return [str(cell).replace("\N{NO-BREAK SPACE}", " ") for cell in cells]


def test_a_loss_lies_between_two_batches_evenly_in_their_logarithm():
    # The mean falls by 0.1 and then by 0.9 points: 0.3 is a quarter of the way from 256 to 4,096.
    loss = where_it_loses([run(64, 0.90, 0.91), run(256, 0.898, 0.910), run(4096, 0.891, 0.901)])
    assert (loss.lowest, loss.highest, loss.found) == (256, 4096, True)
    assert loss.batch == pytest.approx(256 * 16**0.25)


def test_a_first_large_batch_that_loses_is_beside_the_smallest():
    loss = where_it_loses([run(64, 0.9), run(1024, 0.894)])
    assert loss.batch == pytest.approx(64 * 16**0.5)


def test_a_batch_that_gains_before_one_that_loses_is_passed():
    loss = where_it_loses([run(64, 0.90), run(256, 0.903), run(1024, 0.894)])
    assert loss.batch == pytest.approx(256 * 4 ** (0.6 / 0.9))


def test_a_sweep_that_never_loses_says_so_and_one_without_accuracy_nothing():
    assert where_it_loses([run(64, 0.9), run(1024, 0.899)]) == LossRange(1024, 1024, 1024, found=False)
    assert where_it_loses([run(64, 0.9), run(1024, None)]) is None
    assert where_it_loses([run(64, None), run(1024, 0.9)]) is None


def test_of_a_batch_at_which_every_seed_diverges_only_the_range_is_known():
    lost = run(1024).model_copy(update={"seeds": {"0": SeedResult(diverged="not finite")}})
    runs = {"small": run(64, 0.9), "large": lost}
    loss = where_it_loses(list(runs.values()))
    assert loss == LossRange(None, 64, 1024, found=True)
    answers = {batch: verdict(batch, loss) for batch in (21.0, 22.0, 200.0, 800.0, 3072.0, 3073.0, None)}
    assert [batch for batch, answer in answers.items() if answer == "undecided"] == [
        22.0,
        200.0,
        800.0,
        3072.0,
    ]
    assert set(answers.values()) == {"undecided", "does not hold"}
    table = critical_batches(runs, {"SGD": ["small", "large"]}, {"SGD": prediction(65, 65)})
    assert plain(table.rows[0])[4:] == ["between 64 and 1,024", "–", "undecided"]
    assert table.rows[0][0] == "SGD (SGD, batch 1024: 1 of 1 seed diverged)"


def test_a_run_without_seeds_has_not_diverged():
    assert where_it_loses([run(64, 0.9), run(1024)]) is None


@pytest.mark.parametrize(
    ("predicted", "found", "answer"),
    [
        (334.0, True, "holds"),
        (2999.0, True, "holds"),
        (333.0, True, "does not hold"),
        (3001.0, True, "does not hold"),
        (None, True, "does not hold"),
        (334.0, False, "holds"),
        (1e9, False, "holds"),
        (None, False, "holds"),
        (333.0, False, "does not hold"),
    ],
)
def test_a_prediction_holds_within_a_factor_of_three_and_of_no_loss_from_above_alone(
    predicted, found, answer
):
    assert verdict(predicted, LossRange(1000.0, 1000, 1000, found=found)) == answer


def test_every_sweep_with_a_prediction_has_a_row():
    training = {
        "small": run(64, 0.90, 0.91),
        "middle": run(256, 0.898, 0.91),
        "large": run(4096, 0.891, 0.901),
    }
    sweeps = {
        "SGD": ["small", "middle", "large"],
        "short": ["small", "middle"],
        "hidden": ["small", "large"],
        "gone": ["small", "none"],
        "unforeseen": ["small", "large"],
    }
    predictions = {
        "SGD": prediction(900.0, 810.0, 1000.0),
        "short": prediction(80.0, 80.0, 80.0),
        "hidden": prediction(None, None, None),
        "gone": prediction(900.0),
    }
    table = critical_batches(training, sweeps, predictions)
    assert [plain(row) for row in table.rows] == [
        ["SGD", "SGD, batch 64", "900", "810 to 1,000", "512 (256 to 4,096)", "1.76", "holds"],
        ["short", "SGD, batch 64", "80", "80 to 80", "none up to 256", "–", "does not hold"],
        ["hidden", "SGD, batch 64", "–", "–", "256 (64 to 4,096)", "–", "does not hold"],
    ]
    assert not critical_batches(training, {}, predictions)
