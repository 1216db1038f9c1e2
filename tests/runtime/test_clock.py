import pytest

from pipeline.runtime import clock
from pipeline.runtime.clock import ProgressLine


@pytest.fixture
def told(monkeypatch, capsys):
    """Updates at given seconds, and the lines that they print."""

    def run(updates, total=100, every=5.0):
        now = iter([0.0, *(seconds for _, seconds in updates)])
        monkeypatch.setattr(clock.time, "monotonic", lambda: next(now))
        progress = ProgressLine("base, seed 0", total, every=every)
        for done, _ in updates:
            progress.update(done, "loss 1.000")
        return capsys.readouterr().err.splitlines()

    return run


def test_the_first_step_tells_nothing_of_the_time_left(told):
    assert told([(1, 6.0)]) == ["base, seed 0: 1/100 steps  loss 1.000"]


def test_time_left_is_that_of_the_steps_after_the_first(told):
    # The first took a minute, the others half a second.
    lines = told([(1, 60.0), *((1 + i, 60 + i / 2) for i in range(1, 11))])
    assert lines[-1] == "base, seed 0: 11/100 steps, 2.0 steps/s, 44 s left  loss 1.000"


def test_a_run_that_goes_on_counts_its_own_steps(told):
    lines = told([(51 + i, 10.0 + i) for i in range(6)], every=15.0)
    assert lines == ["base, seed 0: 56/100 steps, 1.0 steps/s, 44 s left  loss 1.000"]


def test_lines_are_seconds_apart_but_the_last_step_has_its_own(told):
    lines = told([(1 + i, 0.25 * i) for i in range(100)])
    assert [int(line.split(": ")[1].split("/")[0]) for line in lines] == [21, 41, 61, 81, 100]
    assert lines[-1] == "base, seed 0: 100/100 steps, 4.0 steps/s, 0 s left  loss 1.000"
