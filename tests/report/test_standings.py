import re

import pytest

from pipeline.report.claims import judge_claims
from pipeline.report.metrics import RoleMetrics, RunMetrics, SeedResult
from pipeline.report.runs import accuracy_text
from pipeline.report.spread import Difference
from pipeline.report.standings import beside, best_baseline, best_by_batch, standings, verdict
from pipeline.report.trials import trials

ROLES = RoleMetrics(
    reference="sgd_64", large_batch="sgd_1024", second_order="kfac_1024", smoothed="kfac_1024"
)


def run(optimizer, batch, tests, validation, tuning=None):
    return RunMetrics.model_validate(
        {
            "label": f"{optimizer}, batch {batch}",
            "optimizer": optimizer,
            "batch_size": batch,
            "train_samples": 100,
            "epochs": 2,
            "tuning": tuning,
            "seeds": {
                str(seed): {
                    "test": {"accuracy": accuracy, "loss": 0.5},
                    "validation": {"accuracy": validation, "loss": 0.5},
                }
                for seed, accuracy in enumerate(tests)
            },
        }
    )


TRAINING = {
    "sgd_64": run("sgd", 64, (0.8601, 0.87, 0.8799), 0.87),
    "adamw_64": run("adamw", 64, (0.88, 0.89, 0.90), 0.89),
    "kfac_64": run("kfac", 64, (0.9001, 0.91, 0.9199), 0.91),
    "sgd_1024": run("sgd", 1024, (0.8002, 0.81, 0.8198), 0.81),
    "kfac_1024": run("kfac", 1024, (0.87, 0.8801, 0.89), 0.88),
}


def plain(cells):
    return [str(cell).replace("\N{NO-BREAK SPACE}", " ").replace("−", "-") for cell in cells]


def test_the_best_baseline_is_of_first_order_of_a_small_batch_and_chosen_on_validation():
    assert best_baseline(TRAINING, "sgd_64") == "adamw_64"


def test_a_run_may_be_above_under_its_setting_and_below_the_best_baseline():
    table = standings(TRAINING, ROLES)
    assert [column.title for column in table.columns][2::2] == [
        "Points above sgd, batch 64",
        "Points above adamw, batch 64",
    ]
    found = {row[0]: plain(row) for row in table.rows}
    assert list(found) == ["sgd, batch 1024", "kfac, batch 1024"]
    assert found["kfac, batch 1024"][3::2] == ["above", "below"]
    assert found["sgd, batch 1024"][3::2] == ["below", "below"]
    # 5.99, 6 and 6.01 points: t(0.95, 2) times 0.01 by the root of three seeds is 0.017.
    assert found["sgd, batch 1024"][2] == "-6.00 (-6.02 to -5.98)"


def test_a_reference_that_is_the_best_baseline_is_compared_with_once():
    roles = ROLES.model_copy(update={"reference": "adamw_64"})
    table = standings(TRAINING, roles)
    assert [column.title for column in table.columns] == [
        "Run", "Batch", "Points above adamw, batch 64", "Verdict against adamw, batch 64"
    ]  # fmt: skip
    assert all(len(row) == 4 for row in table.rows)


def test_without_roles_or_scores_there_is_no_verdict():
    assert standings(TRAINING, None) is None
    assert standings({"sgd_64": TRAINING["sgd_64"]}, ROLES) is None


def test_the_best_at_each_batch_stands_beside_the_next():
    rows = [plain(row) for row in best_by_batch(TRAINING).rows]
    assert [row[:3] for row in rows] == [
        ["64", "kfac, batch 64", "adamw, batch 64"],
        ["1,024", "kfac, batch 1024", "sgd, batch 1024"],
    ]
    assert [row[4] for row in rows] == ["above", "above"]


def test_verdicts_name_the_seeds_that_they_leave_out():
    diverged = TRAINING["kfac_1024"].model_copy(deep=True)
    diverged.seeds["3"] = SeedResult(diverged="the loss is not finite at step 3")
    training = TRAINING | {"kfac_1024": diverged}
    label = "kfac, batch 1024 (1 of 4 seeds, seed 3, diverged)"
    assert label in [row[0] for row in standings(training, ROLES).rows]
    assert [row[1] for row in best_by_batch(training).rows] == ["kfac, batch 64", label]
    assert accuracy_text(diverged).endswith("% (1 of 4 seeds, seed 3, diverged)")
    assert "diverged)" not in str(standings(TRAINING, ROLES)) + str(best_by_batch(TRAINING))


@pytest.mark.parametrize(
    ("mean", "half_width", "expected"),
    [
        (0.5, 0.4, "above"),
        (0.1, 0.3, "at its level"),
        (-0.1, 0.05, "at its level"),
        (-0.2, 0.15, "undecided"),
        (-0.4, 0.3, "below"),
        (-2.0, 0.5, "below"),
        (0.0, 2.0, "undecided"),
        (5.0, None, "undecided"),
    ],
)
def test_a_verdict_is_of_the_whole_interval(mean, half_width, expected):
    assert verdict(Difference(mean, half_width)) == expected


def test_a_run_of_which_a_seed_diverged_is_not_preferred_by_the_others():
    lost = SeedResult(diverged="the loss is not finite at step 3")
    good, bad = TRAINING["kfac_1024"], TRAINING["sgd_1024"]
    assert (beside(good, bad)[1], beside(bad, good)[1]) == ("above", "below")
    less = good.model_copy(update={"seeds": good.seeds | {"3": lost}})
    assert (beside(less, bad)[1], beside(bad, less)[1]) == ("undecided", "undecided")
    worse = bad.model_copy(update={"seeds": bad.seeds | {"3": lost}})
    assert (beside(good, worse)[1], beside(worse, good)[1]) == ("above", "below")


def test_trials_are_shown_with_what_was_chosen_and_what_diverged():
    tuning = {
        "run": "sgd_64",
        "seed": 1000,
        "chosen": 0,
        "values": {"lr": 0.123456},
        "trials": [
            {"values": {"lr": 0.123456}, "validation": {"loss": 0.4, "accuracy": 0.875}, "seconds": 2.0},
            {"values": {"lr": 0.2}, "validation": {"loss": 0.5, "accuracy": 0.825}, "seconds": 3.0},
            {"values": {"lr": 9.0}, "validation": None, "seconds": 1.0, "failure": "a loss is not finite"},
        ],
    }
    table = trials({"sgd_64": run("sgd", 64, (0.9,), 0.9, tuning), "sgd_1024": TRAINING["sgd_1024"]})
    assert [plain(row) for row in table.rows] == [["sgd, batch 64", "3", "1", "87.50 %", "85.00 %", "6.00 s"]]
    assert table.details == [
        (
            ("Chosen", "trial 1: lr 0.123"),
            ("Trial 1", "lr 0.123: 87.50\N{NO-BREAK SPACE}%"),
            ("Trial 2", "lr 0.200: 82.50\N{NO-BREAK SPACE}%"),
            ("Trial 3", "lr 9.00: diverged"),
        )
    ]
    assert not trials(TRAINING)
    assert "further" not in table.note
    # Two runs may have one label.
    same = run("sgd", 64, (0.9,), 0.9, tuning)
    assert len(trials({"one": same, "other": same}).rows) == 2
    tuning["trials"][0]["repeats"] = [{"loss": 0.4, "accuracy": 0.855}]
    table = trials({"sgd_64": run("sgd", 64, (0.9,), 0.9, tuning)})
    assert plain(table.rows[0])[3:5] == ["86.50 %", "85.00 %"]
    assert table.details[0][1] == (
        "Trial 1",
        "lr 0.123: 87.50\N{NO-BREAK SPACE}% and 85.50\N{NO-BREAK SPACE}%",
    )
    assert table.note.endswith(
        "were trained with 1\xa0further seed, and the better mean was "
        "chosen. The median is that of the first seed."
    )


def test_claims_and_standings_show_the_same_interval_of_the_same_difference():
    costs = judge_claims(TRAINING, ROLES)[0].evidence
    points = next(row for row in standings(TRAINING, ROLES).rows if row[0] == "sgd, batch 1024")[2]
    low, high = re.search(r"90 % interval (\S+) to (\S+)\)", plain([costs])[0]).groups()
    assert plain([points])[0] == f"-6.00 (-{high} to -{low})"
