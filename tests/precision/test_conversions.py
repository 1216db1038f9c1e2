import numpy as np
import pytest
import torch

from pipeline.precision import _native

HALVES = np.arange(65536, dtype=np.uint16).view(np.float16)
FINITE = np.unique(HALVES[np.isfinite(HALVES)].astype(np.float64))


def to_half(instruction_set, numbers):
    target = np.empty(len(numbers), dtype=np.float16)
    _native.convert(instruction_set, numbers, target)
    return target


def test_every_half_is_widened_exactly(instruction_set):
    target = np.empty(65536, dtype=np.float32)
    _native.convert(instruction_set, HALVES, target)
    np.testing.assert_array_equal(target, HALVES.astype(np.float32))
    np.testing.assert_array_equal(target, torch.from_numpy(HALVES).float().numpy())
    np.testing.assert_array_equal(np.signbit(target), np.signbit(HALVES))


def test_every_half_survives_the_way_through_single(instruction_set):
    back = to_half(instruction_set, HALVES.astype(np.float32))
    numbers = ~np.isnan(HALVES)
    np.testing.assert_array_equal(back[numbers].view(np.uint16), HALVES[numbers].view(np.uint16))
    assert np.isnan(back[~numbers]).all()


def test_rounding_is_to_nearest_even_at_and_beside_every_midpoint(instruction_set):
    middle = ((FINITE[1:] + FINITE[:-1]) / 2).astype(np.float32)
    up, down = np.float32(np.inf), np.float32(-np.inf)
    numbers = np.concatenate([middle, np.nextafter(middle, up), np.nextafter(middle, down)])
    found = to_half(instruction_set, numbers).view(np.uint16)
    np.testing.assert_array_equal(found, numbers.astype(np.float16).view(np.uint16))
    np.testing.assert_array_equal(found, torch.from_numpy(numbers).half().numpy().view(np.uint16))


def test_numbers_beyond_the_range_become_infinity_and_tiny_ones_zero(instruction_set):
    below = np.nextafter(np.float32(65520), np.float32(0))
    numbers = np.array([65520, below, -1e30, np.inf, 2.0**-25, -(2.0**-25), 1e-40], dtype=np.float32)
    np.testing.assert_array_equal(
        to_half(instruction_set, numbers),
        np.array([np.inf, 65504, -np.inf, np.inf, 0, -0.0, 0], dtype=np.float16),
    )


@pytest.mark.parametrize("n", [0, 1, 7, 15, 16, 17, 31, 33, 63, 65, 97])
def test_any_length_is_converted_and_nothing_behind_it(instruction_set, n):
    source = np.linspace(-3, 3, n, dtype=np.float32)
    target = np.full(n + 40, 9, dtype=np.float16)
    _native.convert(instruction_set, source, target[:n])
    np.testing.assert_array_equal(target[:n], source.astype(np.float16))
    assert (target[n:] == 9).all()


def test_a_conversion_between_equal_types_or_lengths_is_refused():
    numbers = np.zeros(4, dtype=np.float32)
    with pytest.raises(ValueError, match="as many float16 and float32"):
        _native.convert("portable", numbers, numbers.copy())
    with pytest.raises(ValueError, match="as many float16 and float32"):
        _native.convert("portable", numbers, np.zeros(5, dtype=np.float16))


def test_an_unknown_instruction_set_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"'mmx'; it has .*portable"):
        _native.convert("mmx", np.zeros(1, dtype=np.float32), np.zeros(1, dtype=np.float16))
