import numpy as np
import pytest

from pipeline.report import formatting as f


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (f.count, 28298, "28,298"),
        (f.count, -5, "−5"),
        (f.count, np.int64(7), "7"),
        (f.decimal, (3.14159, 2), "3.14"),
        (f.decimal, (-0.001, 2), "0.00"),
        (f.decimal, (-1234.5, 1), "−1,234.5"),
        (f.relative, 0.00034, "0.034 %"),
        (f.relative, 0.0026, "0.26 %"),
        (f.relative, 2.5e-8, "2.5 × 10⁻⁶ %"),
        (f.relative, None, f.DASH),
        (f.significant, (0.012345, 2), "0.012"),
        (f.significant, (0.0996, 2), "0.10"),
        (f.significant, (1234.5, 2), "1,200"),
        (f.significant, (0, 2), "0"),
        (f.significant, (1e-7, 2), "1.0 × 10⁻⁷"),
        (f.scientific, (3.2e-7, 2), "3.2 × 10⁻⁷"),
        (f.scientific, (-1e12, 1), "−1 × 10¹²"),
        (f.scientific, (9.96e-4, 2), "1.0 × 10⁻³"),
        (f.setting, 1e-6, "10⁻⁶"),
        (f.setting, 2.5e-4, "2.5 × 10⁻⁴"),
        (f.setting, 0.05, "0.05"),
        (f.n_bytes, 0, "0 B"),
        (f.n_bytes, 999, "999 B"),
        (f.n_bytes, 999_960, "1.00 MB"),
        (f.n_bytes, 6.41e9, "6.41 GB"),
        (f.seconds, 1.37e-4, "137 µs"),
        (f.seconds, 4.312, "4.31 s"),
        (f.seconds, 750, "12.5 min"),
        (f.seconds, 7200, "2.00 h"),
        (f.seconds, 0, "0 s"),
        (lambda value: f.seconds(value, like=1.2), -0.511, "−0.511 s"),
        (lambda value: f.seconds(value, like=130), 0.6, "0.0100 min"),
        (f.flops, 75.5e6, "75.5 MFLOP"),
        (f.percent, (0.86666, 1), "86.7 %"),
        (f.times, 15.96, "16×"),
        (f.times, 2.04, "2.0×"),
        (f.times, 0.97, "0.97×"),
        (f.times, 0.0376, "0.038×"),
        (f.times, 0.0, "0.00×"),
        (f.superscript, "−1.02", "⁻¹·⁰²"),
        (f.instant, "2026-11-23T01:01:36+00:00", "23 Nov 2026, 01:01 UTC"),
        (f.instant, "2026-11-23T01:01:36", "23 Nov 2026, 01:01"),
        (f.instant, "2026-01-02", "2 Jan 2026"),
        (f.instant, "some day", "some day"),
        (f.shorten, ("abcdef", 4), "abc…"),
        (f.shorten, ("abcd", 4), "abcd"),
        (f.listing, ["a", "b", "c"], "a, b and c"),
        (f.listing, ["a"], "a"),
        (f.listing, [], ""),
        (f.plural, (1, "seed"), "1 seed"),
        (f.plural, (2, "seed"), "2 seeds"),
        (f.plural, (1.2, "step"), "1 step"),
        (f.plural, (0, "row"), "0 rows"),
        (f.plural, (2, "class", "classes"), "2 classes"),
    ],
)
def test_numbers_are_written_as_readers_want_them(write, value, text):
    found = write(*value) if isinstance(value, tuple) else write(value)
    assert found.replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "3", True])
@pytest.mark.parametrize(
    "write",
    [f.count, f.significant, f.scientific, f.setting, f.n_bytes, f.seconds, f.flops, f.percent, f.times],
)
def test_what_is_not_a_number_is_a_dash(write, value):
    assert write(value) == f.DASH


@pytest.mark.parametrize(
    ("uncertainty", "decimals"),
    [(0.37, 1), (0.13, 2), (0.04, 2), (12.0, 0), (3.0, 0), (1.4, 1), (None, 7), (0.0, 7)],
)
def test_decimals_follow_the_uncertainty(uncertainty, decimals):
    assert f.decimals_for(uncertainty, 7) == decimals


def test_values_that_differ_are_written_with_as_many_digits_as_tell_them_apart():
    assert f.told_apart(1.0, 2.0) == 3
    assert f.told_apart(2921000.0, 2922000.0) == 4
    assert f.told_apart(5.0, 5.0) == 3
    assert f.told_apart(1.0, 1.0 + 1e-15) == 9
