import re

import pytest
from scipy import stats

from pipeline.artifacts.results.network import EpochRow
from pipeline.report.claims import judge_claims
from pipeline.report.metrics import RoleMetrics, RunMetrics

ROLES = {"reference": "small", "large_batch": "large", "second_order": "kfac", "smoothed": "smooth"}
STATEMENTS = ("large", "fast", "worse", "restored", "flatter", "sooner")


def run(accuracies, losses=(0.5, 0.51), train_loss=0.1, steps=100, history=(), sharpness=(10.0, 0.2)):
    return {
        "label": "a run",
        "optimizer": "kfac",
        "batch_size": 64,
        "train_samples": 100,
        "epochs": 2,
        "seeds": {
            str(seed): {
                "test": {"accuracy": accuracy, "loss": loss},
                "train": {"loss": train_loss, "accuracy": None},
                "sharpness": {
                    "largest_eigenvalue": sharpness[0] * (1 + 0.01 * seed),
                    "perturbation": sharpness[1] * (1 + 0.01 * seed),
                    "n_samples": 100,
                },
                "steps": steps,
                "history": [
                    dict.fromkeys(EpochRow.model_fields, 0)
                    | {"steps": at, "seconds": 0.1 * at * (1 + 0.01 * seed), "train_loss": value}
                    for at, value in history
                ],
            }
            for seed, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True))
        },
    }


def study(**changes):
    """A study in which every claim holds, with ``changes`` to its runs; no two seeds differ equally."""
    runs = {
        "small": run((0.8601, 0.8639), (0.501, 0.509), steps=2000, history=[(1000, 0.8), (2000, 0.3)]),
        "large": run((0.840, 0.844), steps=100, history=[(50, 0.9), (100, 0.4)]),
        "kfac": run((0.845, 0.847), (0.80, 0.81), 0.01, 100, [(20, 0.6), (40, 0.3), (100, 0.01)]),
        "smooth": run((0.868, 0.872), (0.40, 0.41), steps=100, sharpness=(4.0, 0.1)),
    }
    return runs | changes


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def judged(runs, roles=ROLES):
    found = {name: RunMetrics.model_validate(run) for name, run in runs.items()}
    return judge_claims(found, RoleMetrics.model_validate(roles) if roles else None)


def verdicts(runs, roles=ROLES):
    return dict(zip(STATEMENTS, (claim.verdict for claim in judged(runs, roles)), strict=True))


def test_all_claims_hold_where_differences_exceed_the_spread():
    assert set(verdicts(study()).values()) == {"holds"}


def test_a_difference_within_the_spread_is_undecided():
    found = verdicts(study(large=run((0.850, 0.874), history=[(100, 0.4)])))
    assert found["large"] == "undecided"


def test_a_large_batch_that_gains_refutes_the_first_claim():
    assert verdicts(study(large=run((0.880, 0.884), history=[(100, 0.4)])))["large"] == "does not hold"


def test_seeds_that_do_not_overlap_are_told_but_decide_nothing():
    astray = study(large=run((0.70, 0.85), history=[(100, 0.4)]))
    first = judged(astray, ROLES)[0]
    assert first.verdict == "undecided"
    assert "its best seed, 85.00" in first.evidence
    overlapping = study(large=run((0.70, 0.861), history=[(100, 0.4)]))
    assert "best seed" not in judged(overlapping, ROLES)[0].evidence


def test_a_noisy_run_leaves_the_others_verdicts_alone():
    found = verdicts(study(smooth=run((0.80, 0.93), (0.40, 0.41))))
    assert found["large"] == "holds"
    assert found["restored"] == "undecided"


@pytest.mark.parametrize(
    ("history", "verdict"),
    [
        ([(40, 0.3)], "holds"),
        ([(40, 0.4)], "holds"),
        ([(99, 0.6), (100, 0.3)], "does not hold"),
        ([(100, 0.6)], "does not hold"),
    ],
)
def test_second_order_must_reach_the_loss_of_large_batch_sgd_in_fewer_steps(history, verdict):
    kfac = run((0.855, 0.859), (0.80, 0.81), 0.01, 100, history)
    assert verdicts(study(kfac=kfac))["fast"] == verdict


def test_seeds_that_disagree_on_speed_leave_it_undecided():
    kfac = run((0.855, 0.859), (0.80, 0.81), 0.01, 100, [(40, 0.3)])
    kfac["seeds"]["1"]["history"] = [
        dict.fromkeys(EpochRow.model_fields, 0) | {"steps": 100, "train_loss": 0.6}
    ]
    runs = study(kfac=kfac)
    assert verdicts(runs)["fast"] == "undecided"
    assert "1 of 2 seeds reaches" in judged(runs, ROLES)[1].evidence


def test_worse_generalization_needs_loss_and_gap_and_accuracy():
    accurate = run((0.860, 0.864), (0.80, 0.81), 0.01, 100, [(40, 0.3)])
    assert verdicts(study(kfac=accurate))["worse"] == "undecided"
    quiet = run((0.840, 0.844), (0.50, 0.51), -0.4, 100, [(40, 0.3)])
    assert verdicts(study(kfac=quiet))["worse"] == "undecided"
    better = run((0.855, 0.859), (0.30, 0.31), 0.1, 100, [(40, 0.3)])
    assert verdicts(study(kfac=better))["worse"] == "does not hold"


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ((0.8629, 0.8631), "holds"),
        ((0.855, 0.859), "undecided"),
        ((0.840, 0.844), "does not hold"),
    ],
)
def test_restored_means_not_below_by_more_than_the_margin(accuracies, verdict):
    # Differences seed by seed of 0.02 points' spread bound the mean by 0.06; those of 0.36 points' spread, by 1.1.
    quiet = study(
        small=run((0.8620, 0.8624), (0.50, 0.51), steps=2000, history=[(2000, 0.3)]),
        large=run((0.8420, 0.8424), history=[(100, 0.4)]),
        kfac=run((0.8570, 0.8574), (0.8, 0.81), 0.01, 100, [(40, 0.3)]),
    )
    quiet["smooth"] = run(accuracies, (0.401, 0.409))
    assert verdicts(quiet)["restored"] == verdict


def test_restored_means_also_at_no_higher_loss():
    assert verdicts(study(smooth=run((0.864, 0.868), (0.50, 0.51))))["restored"] == "undecided"
    assert verdicts(study(smooth=run((0.864, 0.868), (0.60, 0.61))))["restored"] == "does not hold"


def test_flatter_needs_both_measures():
    noisy = run((0.864, 0.868), (0.40, 0.41), sharpness=(4.0, 0.2))
    assert verdicts(study(smooth=noisy))["flatter"] == "undecided"
    sharper = run((0.864, 0.868), (0.40, 0.41), sharpness=(40.0, 0.1))
    assert verdicts(study(smooth=sharper))["flatter"] == "does not hold"


def test_a_claim_says_which_seeds_its_means_leave_out():
    runs = study()
    runs["large"]["label"] = "SGD at 1,024"
    runs["large"]["seeds"]["7"] = {"diverged": "the loss is not finite at step 3"}
    told = {statement: claim.evidence for statement, claim in zip(STATEMENTS, judged(runs), strict=True)}
    words = " SGD at 1,024: 1 of 3 seeds, seed 7, diverged; means are those of the other seeds."
    assert {statement for statement, text in told.items() if text.endswith(words)} == {
        "large",
        "fast",
        "sooner",
    }
    assert not any("diverged" in claim.evidence for claim in judged(study()))


def test_a_second_order_seed_that_diverged_does_not_reach_the_loss():
    runs = study()
    runs["kfac"]["seeds"]["7"] = {"diverged": "the loss is not finite at step 3"}
    fast = judged(runs)[1]
    assert fast.verdict == "undecided"
    assert fast.evidence.startswith("2 of 3 seeds reach")
    assert fast.evidence.endswith("1 of 3 seeds, seed 7, diverged; means are those of the other seeds.")


def test_no_claim_holds_for_a_run_by_the_seeds_that_survived_alone():
    favoring = {
        "small": {"large", "worse"},
        "large": set(),
        "kfac": {"fast", "sooner"},
        "smooth": {"restored", "flatter"},
    }
    for name, statements in favoring.items():
        runs = study()
        runs[name]["seeds"]["7"] = {"diverged": "the loss is not finite at step 3"}
        undecided = {statement for statement, found in verdicts(runs).items() if found == "undecided"}
        assert undecided == statements
    worse = study(smooth=run((0.830, 0.834), (0.60, 0.61)))
    worse["smooth"]["seeds"]["7"] = {"diverged": "the loss is not finite at step 3"}
    assert verdicts(worse)["restored"] == "does not hold"


def test_one_seed_decides_nothing():
    runs = study()
    for name in runs:
        del runs[name]["seeds"]["1"]
    assert set(verdicts(runs).values()) == {"undecided"}


def test_claims_need_their_runs():
    assert judged(study(), None) == ()
    assert judged(study(), {"reference": "small", "large_batch": None}) == ()
    assert judged(study(), {"reference": "small", "smoothed": "gone"}) == ()
    assert len(judged(study(), {"reference": "small", "smoothed": "smooth"})) == 1


def test_runs_without_scores_leave_out_the_claim():
    flat = {"largest_eigenvalue": None, "perturbation": None, "n_samples": 0}
    seed = {"sharpness": flat, "test": {"accuracy": None, "loss": float("nan")}, "history": []}
    empty = run((0.5,), (0.5,)) | {"seeds": {"0": seed}}
    assert judged({"small": empty, "large": empty, "kfac": empty, "smooth": empty}, ROLES) == ()


def test_evidence_is_made_of_the_numbers():
    first, second, third, fourth, fifth, sixth = judged(study(), ROLES)
    assert "2.00 points below batch 64 (90 % interval " in first.evidence
    assert "84.20" in first.evidence
    assert "within 40: 2.5×" in second.evidence
    assert "test loss is 0.300 higher (90 % interval " in third.evidence
    assert "the test accuracy is 1.60 points lower (90 % interval " in third.evidence
    assert "in 100 steps instead of 2,000; the test loss is 0.100 lower (90 % interval " in plain(
        fourth.evidence
    )
    assert "largest eigenvalue of the Hessian is 6.03 lower (90 % interval " in fifth.evidence
    assert "4.02 against 10.1" in fifth.evidence
    # 40 and 2,000 steps of a tenth of a second, one percent slower with the second seed.
    assert plain(sixth.evidence).startswith(
        "To a training loss of 0.400 it takes 4.02 s, the small batch 3.35 min"
    )


def test_few_steps_that_take_longer_are_not_sooner():
    slow = run((0.845, 0.847), (0.80, 0.81), 0.01, 100, [(40, 0.3)])
    for seed in slow["seeds"].values():
        seed["history"][0]["seconds"] = 500.0 + seed["history"][0]["seconds"]
    assert verdicts(study(kfac=slow))["sooner"] == "does not hold"
    never = run((0.845, 0.847), (0.80, 0.81), 0.01, 100, [(40, 0.5)])
    assert verdicts(study(kfac=never))["sooner"] == "does not hold"
    slow["seeds"]["0"]["alone"] = False
    evidence = judged(study(kfac=slow), ROLES)[-1].evidence
    assert "later" in evidence
    units = re.search(
        r": [\d.]+ (\w+) later \(90 % interval \S+ (\w+) to \S+ (\w+)\)", plain(evidence)
    ).groups()
    assert len(set(units)) == 1
    assert evidence.endswith(
        "other jobs of the study ran on the same machine meanwhile, so that either may be too long."
    )


def test_sooner_does_not_hold_by_the_seeds_that_get_there_alone():
    fast = run((0.845, 0.847), (0.80, 0.81), 0.01, 100, [(40, 0.3)])
    assert verdicts(study(kfac=fast))["sooner"] == "holds"
    fast["seeds"]["1"]["history"][0]["train_loss"] = 9.0
    found = judged(study(kfac=fast), ROLES)[-1]
    assert found.verdict == "undecided"
    assert found.evidence.endswith("Only 1 of 2 seeds gets there.")
    assert "(over the 1 seed in common of 1 and 2)" in found.evidence


def test_later_is_not_decided_by_the_seeds_of_the_small_batch_that_get_there_alone():
    slow = run((0.845, 0.847, 0.846), (0.80, 0.81, 0.8), 0.01, 100, [(4000, 0.3)])
    runs = study(
        kfac=slow, small=run((0.86, 0.87, 0.865), (0.5, 0.51, 0.5), history=[(1000, 0.8), (2000, 0.3)])
    )
    assert verdicts(runs)["sooner"] == "does not hold"
    runs["small"]["seeds"]["2"]["history"] = []
    found = judged(runs)[-1]
    assert found.verdict == "undecided"
    # 400 and 404 s against 200 and 202 s.
    assert "it takes 6.70 min, the small batch 3.35 min (over the 2 seeds in common of 3 and 2)" in plain(
        found.evidence
    )
    assert found.evidence.endswith("Of the small batch, only 2 of 3 seeds get there.")
    for seed in runs["small"]["seeds"].values():
        seed["history"] = []
    found = judged(runs)[-1]
    assert found.verdict == "undecided"
    told = "No seed of the small batch reaches a training loss of 0.400; of the second-order method, 3 of 3 seeds get"
    assert found.evidence == f"{told} there."


def test_an_interval_is_that_of_its_sentence():
    # Seed by seed 2.0 and 2.4 points: t(0.95, 1) times their deviation, 0.2 sqrt(2), by the root of two seeds.
    runs = study(large=run((0.838, 0.842), history=[(100, 0.4)]), small=run((0.858, 0.866), steps=2000))
    half = stats.t.ppf(0.95, 1) * 0.2
    assert f"(90 % interval {2.2 - half:.2f} to {2.2 + half:.2f})" in judged(runs, ROLES)[0].evidence
    gains = study(large=run((0.880, 0.884), history=[(100, 0.4)]))
    assert "2.00 points above batch 64" in judged(gains, ROLES)[0].evidence


def test_means_are_those_of_the_seeds_that_both_runs_have():
    # The third seed of the small batch, 84.00 %, would bring its mean to 85.47 %, which is 1.27 points away, not 2.
    runs = study(small=run((0.8601, 0.8639, 0.84), (0.501, 0.509, 0.9), steps=2000))
    evidence = [plain(claim.evidence) for claim in judged(runs)]
    assert "84.20 % against 86.20 % (over the 2 seeds in common of 2 and 3)" in evidence[0]
    assert "0.805 against 0.505 (over the 2 seeds in common of 2 and 3)" in evidence[2]
    assert "87.00 % against 86.20 % (over the 2 seeds in common of 2 and 3)" in evidence[3]
    assert not any("in common" in claim.evidence for claim in judged(study()))


def test_runs_without_a_seed_in_common_say_so():
    runs = study()
    runs["large"]["seeds"] = {"8": runs["large"]["seeds"]["0"], "9": runs["large"]["seeds"]["1"]}
    first = judged(runs)[0]
    assert first.verdict == "undecided"
    assert plain(first.evidence).startswith(
        "Batch 64 is 2.00 points below batch 64: 84.20 % against 86.20 % (over"
    )
    assert "(over 2 and 2 seeds, none of them in common)" in first.evidence


def test_seeds_that_differ_equally_decide_nothing():
    # Accuracies of ten thousand images come in steps of 0.01 points, so that two differences may be equal by chance.
    equal = study(large=run((0.8401, 0.8439), history=[(100, 0.4)]))
    first = judged(equal)[0]
    assert first.verdict == "undecided"
    assert "interval" not in first.evidence


def test_one_seed_has_no_interval():
    runs = study()
    for name in runs:
        del runs[name]["seeds"]["1"]
    assert not any("interval" in claim.evidence or "±" in claim.evidence for claim in judged(runs, ROLES))
