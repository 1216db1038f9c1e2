import os

import numpy as np
import pytest
import torch

from pipeline.precision.sampling import Sampling, interval, one_core


class Machine:
    """A clock that moves only when a side runs, and a count of interruptions that a test sets."""

    def __init__(self):
        self.now = self.cpu = 0.0
        self.n_switches = 0
        self.calls = []

    def side(self, name, seconds, interrupted=lambda call: False):
        def run(repeats):
            self.calls.append((name, repeats))
            n_calls = sum(called == name for called, _ in self.calls)
            took = seconds * repeats
            self.cpu += took
            if interrupted(n_calls):
                self.n_switches += 1
                took += 1.0
            self.now += took
            return took

        return run

    def sampling(self, **options):
        return Sampling(
            clock=lambda: self.now, cpu=lambda: self.cpu, switches=lambda: self.n_switches, **options
        )


def test_every_side_gets_its_samples_and_a_sample_repeats_short_runs():
    machine = Machine()
    sampling = machine.sampling(n_samples=30, seconds_per_sample=1e-4, seconds_at_most=1.0)
    found = sampling({"fast": machine.side("fast", 1e-6), "slow": machine.side("slow", 2e-4)})
    assert [len(found[name].seconds) for name in ("fast", "slow")] == [30, 30]
    np.testing.assert_allclose(found["fast"].seconds, 1e-6)
    np.testing.assert_allclose(found["slow"].seconds, 2e-4)
    assert ("fast", 100) in machine.calls
    assert {repeats for name, repeats in machine.calls if name == "slow"} == {1, 5}  # warming up, 5


def test_the_sides_take_turns_in_alternating_order_each_warmed_first():
    machine = Machine()
    sampling = machine.sampling(
        n_samples=4, seconds_per_sample=3.0, seconds_at_most=100.0, n_warm=6, samples_per_turn=2
    )
    sampling({"a": machine.side("a", 1.0), "b": machine.side("b", 1.0)})
    rounds = machine.calls[4:]  # after two runs of each side that choose its repeats
    turns = {name: [(name, 6), (name, 3), (name, 3)] for name in "ab"}
    assert rounds == [*turns["a"], *turns["b"], *turns["b"], *turns["a"]]


def test_whole_networks_take_turns_too():
    machine = Machine()
    runs = {name: lambda name=name: [machine.side(name, 0.01)(1), 2.0] for name in "ab"}
    found = machine.sampling(n_samples=2, seconds_at_most=100.0, n_warm=3).in_network(runs)
    assert [name for name, _ in machine.calls] == [*"aaaaa", *"bbbbb"]
    assert found["b"].seconds.tolist() == [[0.01, 2.0]] * 2


def test_a_network_that_takes_long_is_warm_after_one_run():
    machine = Machine()
    machine.sampling(n_samples=2, seconds_at_most=100.0, n_warm=3).in_network(
        {name: lambda name=name: [machine.side(name, 1.0)(1)] for name in "ab"}
    )
    assert [name for name, _ in machine.calls] == [*"aaa", *"bbb"]


def test_time_that_something_else_had_shows_in_the_share_of_the_cpu():
    machine = Machine()
    alone, beside = machine.side("alone", 1.0), machine.side("beside", 1.0, interrupted=lambda call: True)
    found = machine.sampling(n_samples=5, seconds_at_most=10.0)({"alone": alone, "beside": beside})
    assert (found["alone"].cpu_share, found["beside"].cpu_share) == (1.0, 0.5)


def test_an_interrupted_run_of_a_network_is_dropped():
    machine = Machine()
    side = machine.side("a", 1.0, interrupted=lambda call: call % 4 == 0)
    found = machine.sampling(n_samples=9, seconds_at_most=1e3).in_network({"a": lambda: [side(1)]})["a"]
    assert found.n_dropped > 0
    assert (found.seconds == 1.0).all()


def test_cold_sides_of_a_group_run_once_each_behind_one_chill_and_keep_their_own_times():
    machine = Machine()
    sampling = machine.sampling(n_samples=3, seconds_per_sample=5.0, seconds_at_most=100.0)
    groups = [{"a": machine.side("a", 1.0), "c": machine.side("c", 3.0)}, {"b": machine.side("b", 2.0)}]
    found = sampling.cold(groups, chill=lambda: machine.calls.append(("chill", 0)))
    assert machine.calls == [("chill", 0), ("a", 1), ("c", 1)] * 3 + [("chill", 0), ("b", 1)] * 3
    assert {name: found[name].seconds.tolist() for name in found} == {
        "a": [1.0] * 3,
        "c": [3.0] * 3,
        "b": [2.0] * 3,
    }


def test_interrupted_samples_are_dropped_and_replaced():
    machine = Machine()
    side = machine.side("a", 1e-3, interrupted=lambda call: call > 2 and call % 3 == 0)
    found = machine.sampling(n_samples=10, seconds_at_most=100.0)({"a": side})["a"]
    assert len(found.seconds) >= 10
    assert found.n_dropped > 0
    assert found.n_disturbed == 0
    np.testing.assert_allclose(found.seconds, 1e-3)


def test_if_everything_is_interrupted_the_samples_are_kept_rather_than_none():
    machine = Machine()
    side = machine.side("a", 1e-3, interrupted=lambda call: True)
    found = machine.sampling(n_samples=10, n_at_least=7, seconds_at_most=20.0)({"a": side})["a"]
    assert (len(found.seconds), found.n_disturbed) == (7, 7)
    assert found.n_dropped > 0


def test_the_least_number_of_samples_is_taken_however_long_they_take():
    for n_at_least in (1, 5, 13, 40):
        machine = Machine()
        sampling = machine.sampling(n_samples=40, n_at_least=n_at_least, seconds_at_most=0.0)
        found = sampling({"a": machine.side("a", 1.0)})["a"]
        assert n_at_least <= len(found.seconds) < n_at_least + sampling.samples_per_turn
        assert (found.n_disturbed, found.n_dropped) == (0, 0)


def test_what_undisturbed_samples_lack_of_the_least_number_disturbed_ones_make_up_for():
    machine = Machine()
    side = machine.side(
        "a", 1e-3, interrupted=lambda call: call > 8
    )  # 2 runs, and a turn of 5 behind warming up
    found = machine.sampling(n_samples=40, n_at_least=12, seconds_at_most=30.0)({"a": side})["a"]
    assert (len(found.seconds), found.n_disturbed) == (12, 7)
    assert (found.seconds < 1e-2).sum() == 5


def test_the_time_limit_ends_sampling_before_the_wanted_number():
    machine = Machine()
    found = machine.sampling(n_samples=40, seconds_at_most=25.0)({"a": machine.side("a", 1.0)})
    assert 5 < len(found["a"].seconds) < 40


def test_the_interval_of_a_constant_is_that_constant():
    def mean(s):
        return s.mean(axis=1)

    assert interval(mean, np.full(9, 3.0), generator=np.random.default_rng(0)) == (3.0, 3.0)


def test_the_interval_of_a_mean_narrows_with_the_root_of_the_samples():
    def width(n):
        samples = np.random.default_rng(1).normal(size=n)
        low, high = interval(
            lambda s: s.mean(axis=1), samples, generator=np.random.default_rng(0), n_resamples=4000
        )
        return high - low

    # A normal mean's 95 % interval has the width 2 * 1.96 / sqrt(n); 20 % leave room for the drawn variance.
    for n in (100, 400):
        assert width(n) == pytest.approx(2 * 1.96 / n**0.5, rel=0.2)


def test_an_interval_is_the_same_for_the_same_generator():
    samples = np.random.default_rng(2).random(11), np.random.default_rng(3).random(7)

    def ratio(a, b):
        return np.median(a, axis=1) / np.median(b, axis=1)

    first = interval(ratio, *samples, generator=np.random.default_rng(5))
    assert first == interval(ratio, *samples, generator=np.random.default_rng(5))
    assert first[0] < first[1]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin a thread")
def test_one_core_and_one_thread_are_given_back_even_after_an_error():
    cores, n_threads = os.sched_getaffinity(0), torch.get_num_threads()

    def fail():
        with one_core():
            assert len(os.sched_getaffinity(0)) == 1
            assert torch.get_num_threads() == 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert os.sched_getaffinity(0) == cores
    assert torch.get_num_threads() == n_threads


def test_as_many_disturbed_samples_count_in_every_side():
    machine = Machine()
    calm = machine.side("calm", 1e-3, interrupted=lambda call: call % 8 == 0)
    busy = machine.side("busy", 1e-3, interrupted=lambda call: call % 2 == 0)
    sampling = machine.sampling(n_samples=100, n_at_least=30, seconds_at_most=20.0)
    found = sampling({"calm": calm, "busy": busy})
    assert len(found["busy"].seconds) == 30
    assert found["busy"].n_disturbed > 0
    n_of_calm = found["calm"].n_disturbed + found["calm"].n_dropped
    assert found["calm"].n_disturbed == min(found["busy"].n_disturbed, n_of_calm)
    assert len(found["calm"].seconds) >= 30


@pytest.mark.parametrize("key", ["n_samples", "n_at_least", "samples_per_turn", "seconds_at_most"])
def test_a_sampling_takes_samples(key):
    with pytest.raises(ValueError, match=f"Sampling: {key} must lie in"):
        Sampling(**{key: -1})
    if key != "seconds_at_most":
        with pytest.raises(ValueError, match=f"Sampling: {key} must lie in"):
            Sampling(**{key: 0})
