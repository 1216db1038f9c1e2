import math

import pytest

from pipeline.training.optimizers import LARS, SGD
from pipeline.training.search import (
    Outcome,
    best,
    drawn,
    finalists,
    known_options,
    next_training,
    with_values,
)
from pipeline.training.smoothing import Mixup, WeightNoise

RANGES = {"lr": (0.01, 1.0), "weight_decay": (1e-4, 1e-2), "momentum": (0.8, 0.98)}


@pytest.mark.parametrize("n", [1, 3, 8, 16])
def test_trials_lie_in_their_ranges_and_are_as_many_as_asked(n):
    trials = drawn(RANGES, n, seed=5, optimizer=SGD(lr=1.0))
    assert len(trials) == n
    for trial in trials:
        assert list(trial) == list(RANGES)
        assert all(low <= trial[name] <= high for name, (low, high) in RANGES.items())


def test_each_of_sixteen_equal_parts_of_a_ranges_logarithm_has_one_of_sixteen_trials():
    trials = drawn(RANGES, 16, seed=5, optimizer=SGD(lr=1.0))

    def cells(values, low, high):
        shares = [(math.log(v) - math.log(low)) / (math.log(high) - math.log(low)) for v in values]
        # The sequence's points have one random shift in common, modulo one.
        return len({math.floor(16 * ((share - shares[0]) % 1) + 0.5) % 16 for share in shares})

    assert cells([t["lr"] for t in trials], 0.01, 1.0) == 16
    assert cells([t["weight_decay"] for t in trials], 1e-4, 1e-2) == 16
    assert cells([1 - t["momentum"] for t in trials], 1 - 0.8, 1 - 0.98) == 16


def test_methods_with_as_many_options_are_searched_at_the_same_points():
    def shares(ranges, optimizer):
        return [
            [
                (math.log(trial[name]) - math.log(low)) / (math.log(high) - math.log(low))
                for name, (low, high) in ranges.items()
            ]
            for trial in drawn(ranges, 5, seed=2, optimizer=optimizer)
        ]

    ours = {"lr": (0.1, 10.0), "weight_decay": (1e-6, 1e-3), "trust": (1e-3, 1e-1)}
    theirs = {"lr": (0.01, 0.1), "weight_decay": (1e-4, 1e-2), "mixup.alpha": (0.1, 1.0)}
    for one, other in zip(shares(ours, LARS(lr=1.0)), shares(theirs, SGD(lr=1.0)), strict=True):
        assert one == pytest.approx(other)


def test_another_seed_draws_other_trials():
    one, other = (drawn(RANGES, 4, seed=seed, optimizer=SGD(lr=1.0)) for seed in (0, 1))
    assert all(a["lr"] != b["lr"] for a, b in zip(one, other, strict=True))


def test_values_go_to_the_optimizer_and_to_the_smoothing_of_their_name():
    optimizer, smoothing = with_values(
        SGD(lr=1.0), (Mixup(0.4), WeightNoise(0.3)), {"lr": 0.1, "weight_noise.std": 0.2}
    )
    assert optimizer == SGD(lr=0.1)
    assert smoothing == (Mixup(0.4), WeightNoise(0.2))


@pytest.mark.parametrize("name", ["trust", "mixup.beta", "sam.rho", "weight_noise.antithetic"])
def test_an_unknown_option_is_refused_with_the_known_ones(name):
    with pytest.raises(
        ValueError, match=f"no option '{name}'; known are lr, momentum, weight_decay, weight_noise.std"
    ):
        with_values(SGD(lr=1.0), (WeightNoise(0.3),), {name: 0.1})


def test_known_options_are_real_numbers():
    assert known_options(LARS(lr=1.0), (Mixup(0.4),)) == [
        "lr",
        "momentum",
        "weight_decay",
        "trust",
        "mixup.alpha",
    ]


def outcome(*accuracies, losses=None, diverged=False):
    return Outcome(accuracies, losses or [1 - accuracy for accuracy in accuracies], diverged)


DIVERGED = Outcome([], [], diverged=True)


def test_the_best_trial_has_the_highest_accuracy_and_at_equal_ones_the_lowest_loss():
    assert best([outcome(0.8), DIVERGED, outcome(0.9, losses=[0.5]), outcome(0.9, losses=[0.4])]) == 3
    assert best([outcome(0.9, losses=[math.nan]), outcome(0.9, losses=[9.0])]) == 1
    assert best([outcome(0.9, losses=[math.inf])]) == 0
    assert best([DIVERGED]) is None
    assert best([]) is None


def test_a_better_mean_wins_and_a_trial_that_diverges_with_one_seed_does_not():
    assert best([outcome(0.8, 0.8), DIVERGED, outcome(0.7), outcome(0.9, 0.6)]) == 0
    assert best([outcome(0.8, diverged=True), outcome(0.7), outcome(0.9, 0.6)]) == 2
    assert best([outcome(0.8, diverged=True), outcome(0.7), outcome(0.9, diverged=True)]) == 1
    assert best([outcome(0.8, diverged=True), DIVERGED]) is None


def test_finalists_are_the_best_by_the_first_seed():
    assert finalists([outcome(0.8), DIVERGED, outcome(0.7), outcome(0.9)]) == [0, 3]
    assert finalists([DIVERGED, outcome(0.2)]) == [1]
    # The order does not hang on which of them has had its further seeds.
    assert finalists([outcome(0.8, 0.1), DIVERGED, outcome(0.7), outcome(0.9)]) == [0, 3]


def test_all_trials_come_first_then_each_finalist_with_all_seeds():
    first = [0.6, 0.9, 0.7, 0.8]
    outcomes, order = [], []
    while following := next_training(outcomes, n_trials=4, n_repeats=2):
        number, seed = following
        order.append(following)
        former = outcomes[number].accuracies if seed else ()
        outcomes[number : number + 1] = [outcome(*former, first[number])]
    assert order == [(0, 0), (1, 0), (2, 0), (3, 0), (1, 1), (1, 2), (3, 1), (3, 2)]
