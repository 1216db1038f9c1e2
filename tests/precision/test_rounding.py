import math

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.precision.rounding import (
    check_range,
    round_weights,
    scale_exponents,
    storable_in_half,
    widen,
)


def test_rounding_is_direct_and_not_by_way_of_single():
    # Rounded to single first, this would lie on the middle between two halves and go down to the even one.
    weight = torch.tensor([[1 + 2.0**-11 + 2.0**-40]], dtype=torch.float64)
    assert weight.float().half().item() == 1.0
    assert round_weights(weight)[0].item() == 1 + 2.0**-10


def test_weights_that_binary16_holds_are_exact():
    weight = torch.tensor([[1.0, -0.5], [65504.0, 2.0**-14]], dtype=torch.float64)
    stored, exponents, report = round_weights(weight)
    assert torch.equal(stored.double(), weight)
    assert exponents == ()
    assert report.sqnr_db == math.inf
    assert (report.relative_error, report.n_weights, report.n_subnormal, report.n_flushed) == (0.0, 4, 0, 0)


def test_subnormal_and_flushed_weights_are_counted_against_float64():
    row = [1.0, 2.0**-15, 2.0**-24, 2.0**-25, 2.0**-26, -1e-9, 0.0]
    stored, exponents, report = round_weights(torch.tensor([row], dtype=torch.float64))
    assert exponents == ()
    assert report.n_subnormal == 2
    assert report.n_flushed == 3  # 2^-25 is a tie and goes to the even zero; a true zero is not counted
    assert report.n_overflow == 0
    np.testing.assert_array_equal(stored[0, :3], row[:3])


def test_a_channel_out_of_range_is_scaled_by_a_power_of_two_and_the_others_are_not():
    weight = torch.tensor([[1e6, -3e5], [0.3, 0.1], [1e-9, 5e-10], [0.0, 0.0]], dtype=torch.float64)
    stored, exponents, report = round_weights(weight)
    assert exponents == (19, 0, -30, 0)
    assert stored.isfinite().all()
    assert stored[:3].abs().amax(dim=1).ge(torch.tensor([1, 0.25, 1])).all()
    back = widen(stored, exponents).double()
    assert (back - weight).abs().le(2.0**-11 * weight.abs()).all()
    assert (report.n_overflow, report.n_scaled, report.n_flushed) == (2, 2, 0)
    assert (report.scale_exponent_min, report.scale_exponent_max) == (-30, 19)


@pytest.mark.parametrize("magnitude", [1e-30, 1e-9, 2.0**-14, 1e-3, 1.0, 65519.0, 65520.0, 1e6, 1e30])
def test_every_weight_is_off_by_at_most_2_to_the_minus_11_of_its_channels_largest(magnitude):
    generator = torch.Generator().manual_seed(1)
    weight = magnitude * (2 * torch.rand(5, 97, generator=generator, dtype=torch.float64) - 1)
    stored, exponents, report = round_weights(weight)
    back = np.ldexp(stored.double().numpy(), np.array(exponents or [0] * 5)[:, None])
    assert np.all(np.abs(back - weight.numpy()) <= 2.0**-11 * weight.abs().amax(dim=1, keepdim=True).numpy())
    assert report.relative_error == pytest.approx(
        np.linalg.norm(back - weight.numpy()) / weight.norm().item()
    )
    assert report.sqnr_db == pytest.approx(-20 * math.log10(report.relative_error))
    assert report.worst_channel_error >= report.relative_error


def test_a_scale_keeps_the_largest_weight_in_one_to_two():
    weight = torch.tensor([[65520.0], [2.0**-15], [2.0**20], [2.0**-14]], dtype=torch.float64)
    exponents = scale_exponents(weight)
    assert exponents == (15, -15, 20, 0)


def test_widening_without_exponents_changes_no_value():
    weight = torch.tensor([[1.5, -2.0]]).half()
    assert torch.equal(widen(weight, ()), weight.float())


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e39])
def test_parameters_that_single_cannot_hold_are_refused_with_the_layers_name(value):
    weight = torch.tensor([[value]], dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"'head' has a weight .* wanted finite"):
        check_range("head", weight, torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("activations", "storable"),
    [
        ([0.0, 0.0], True),
        ([1.0, 1e-7], True),
        ([30000.0], True),
        ([33000.0], False),
        ([math.nan], False),
        ([1e-7, 2e-8], False),
    ],
)
def test_activations_are_storable_if_they_fit_with_room_and_are_not_mostly_subnormal(activations, storable):
    assert storable_in_half(torch.tensor(activations)) is storable
