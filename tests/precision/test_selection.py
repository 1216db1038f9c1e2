import json
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.precision import Budget, HalfNetwork, Sampling
from pipeline.precision.routines import candidates, twin
from pipeline.precision.selection import Candidate, fewest, furthest, moves
from pipeline.precision.verification import verify

QUICK = Sampling(n_samples=3, seconds_at_most=0.05)
START = Candidate("direct fp32", 10.0, 0.0)


def test_moves_come_in_the_order_of_squared_error_per_second_saved():
    measured = {
        "a": [START, Candidate("direct fp16", 8.0, 3e-4), Candidate("winograd4 fp16", 2.0, 2e-3)],
        "b": [START, Candidate("winograd2 fp16", 4.0, 4e-4)],
        "c": [START, Candidate("direct fp16", 11.0, 0.0)],
        "d": [START, Candidate("direct fp16", 9.8, 3e-4)],  # gains too little for its error
    }
    # b: 1.6e-7 / 6 s; a: 9e-8 / 2 s, then 3.91e-6 / 6 s.
    assert moves(measured, Budget()) == [
        ("b", "winograd2 fp16"),
        ("a", "direct fp16"),
        ("a", "winograd4 fp16"),
    ]


def test_what_is_faster_and_more_accurate_comes_first_and_what_is_too_wrong_not_at_all():
    measured = {
        "a": [Candidate("direct fp32", 10.0, 1e-3), Candidate("winograd2 fp32", 9.0, 1e-4)],
        "b": [START, Candidate("winograd4 fp16", 1.0, 6e-3), Candidate("direct fp16", 2.0, 4e-4)],
    }
    assert moves(measured, Budget(layer_error=5e-3)) == [("a", "winograd2 fp32"), ("b", "direct fp16")]


@pytest.mark.parametrize("n", [0, 1, 2, 7, 100])
def test_bisection_goes_as_far_as_is_accepted(n):
    for limit in range(0, n + 1, max(n // 7, 1)):
        asked: list[int] = []

        def accepted(k, limit=limit, asked=asked):
            asked.append(k)
            return k <= limit

        assert furthest(n, accepted) == limit
        assert len(asked) <= 1 + n.bit_length()


def test_losses_are_points_of_accuracy_and_relative_error():
    exact = torch.tensor([[3.0, 0.0], [0.0, 4.0], [1.0, 0.9], [0.0, 1.0]])
    found = exact.clone()
    found[2] = torch.tensor([0.9, 1.0])
    lost = verify(found, exact, torch.tensor([0, 1, 0, 0]))
    assert (lost.points, lost.n_changed, lost.n_samples) == (25.0, 1, 4)
    assert lost.output_error == pytest.approx((2 * 0.1**2) ** 0.5 / exact.norm().item())
    assert not lost.within(Budget(points=24))
    assert lost.within(Budget(points=25, output_error=1))
    assert verify(found, exact, None).points is None


def test_a_bias_hides_no_error_of_what_varies():
    generator = np.random.default_rng(0)
    exact = 1000.0 + generator.standard_normal((64, 5))
    found = exact + 0.1 * generator.standard_normal((64, 5))
    checked = verify(torch.from_numpy(found), torch.from_numpy(exact), None)
    wanted = np.sqrt(np.sum((found - exact) ** 2) / (len(exact) * exact.var(axis=0).sum()))
    assert checked.varying_error == pytest.approx(wanted, rel=1e-6)
    assert checked.output_error < 1e-3 < 0.05 < checked.varying_error
    one = torch.ones(1, 5)
    assert verify(one + 0.1, one, None).varying_error is None


def test_every_layer_gets_one_of_its_candidates_and_the_same_twice(case):
    module, x = case
    first, second = (HalfNetwork.convert(module, x) for _ in range(2))
    assert first.plan() == second.plan()
    for layer in first.layers:
        assert layer.routine in candidates(layer, first.instruction_set)


def test_chosen_routines_stay_within_the_budget_and_leave_the_weights_alone(case):
    module, x = case
    network = HalfNetwork.convert(module, x)
    selection = network.choose_routines(x, batch=3, sampling=QUICK)
    assert selection.verification.within(Budget())
    assert selection.verification.n_samples == len(x)
    assert 0 <= selection.n_moves <= selection.n_possible
    assert selection.network.tensors().keys() == network.tensors().keys()
    assert all(
        torch.equal(selection.network.tensors()[key], value) for key, value in network.tensors().items()
    )
    rows = json.loads(json.dumps(selection.rows(), allow_nan=False))
    assert [row["layer"] for row in rows if row["chosen"]] == [layer.name for layer in network.layers]


def test_a_layer_budget_of_nothing_leaves_every_layer_at_its_general_float32_routine(case):
    module, x = case
    network = HalfNetwork.convert(module, x)
    selection = network.choose_routines(x, budget=Budget(layer_error=0.0), sampling=QUICK)
    assert selection.n_moves == 0
    for layer in selection.network.layers:
        assert layer.routine == twin(candidates(layer, network.instruction_set)[0])


def test_routines_over_the_budget_are_refused_and_the_plans_own_kept_if_they_are_within(case):
    module, x = case
    network, nothing = HalfNetwork.convert(module, x), Budget(output_error=0.0)
    with pytest.raises(ConfigError, match=r"no choice of routines is within the budget: .* at most 0;"):
        network.choose_routines(x, budget=nothing, sampling=QUICK)
    selection = network.choose_routines(x, exact=network(x), budget=nothing, sampling=QUICK)
    assert torch.equal(selection.network(x), network(x))
    assert selection.verification.output_error == 0


@pytest.mark.filterwarnings("ignore:the network stays at float32")
@pytest.mark.parametrize("output_error", [1e-6, 1e-3])
def test_a_converted_network_is_within_its_budget_of_error(case, output_error):
    module, x = case
    network = HalfNetwork.convert(module, x, budget=Budget(output_error=output_error))
    assert verify(network(x), network.float_twin()(x), None).output_error <= output_error


def test_a_network_that_stays_at_float32_says_so_and_the_budget_that_it_proposes_helps(case):
    module, x = case
    with pytest.warns(
        UserWarning, match=r"stays at float32 altogether.* output error of .*wanted at most"
    ) as told:
        HalfNetwork.convert(module, x, budget=Budget(output_error=1e-9))
    proposed = re.search(r"Budget\(output_error=([\d.e-]+)\) would change that", str(told[0].message))
    network = HalfNetwork.convert(module, x, budget=Budget(output_error=float(proposed[1])))
    assert all(layer.weight_dtype == "float16" for layer in network.layers if layer.has_weights)


@pytest.mark.parametrize("least", [0, 1, 5, 53, 54])
def test_the_fewest_layers_are_found_by_bisection(least):
    asked = []

    def accepted(n):
        asked.append(n)
        return n >= least

    assert fewest(54, accepted) == least
    assert len(asked) <= 2 + math.ceil(math.log2(54))
    assert fewest(54, lambda n: False) is None
    assert fewest(0, lambda n: True) == 0


def test_results_that_are_no_numbers_at_float32_are_refused_and_zeros_are_exact(mlp):
    module, x = mlp
    with torch.no_grad():
        for layer in (module[1], module[4]):
            layer.weight *= 1e25
    with pytest.raises(
        ConfigError,
        match=r"NaN or infinity at float32 for 9 of 9 calibration inputs, first in layer '4'; wanted finite",
    ):
        HalfNetwork.convert(module, x)
    zeros = torch.zeros(2, 3)
    assert verify(zeros, zeros, None).within(Budget(output_error=0.0))


@pytest.mark.parametrize("value", [-1.0, math.nan, None, "1"])
@pytest.mark.parametrize("name", ["points", "layer_error", "output_error"])
def test_a_budget_is_of_numbers_that_are_not_negative(name, value):
    with pytest.raises(ValueError, match=f"Budget: {name} must"):
        Budget(**{name: value})
    assert Budget(**{name: math.inf}) != Budget(**{name: 0})


def test_labels_are_one_class_for_each_prediction(mlp, generator):
    module, x = mlp
    network, labels = HalfNetwork.convert(module, x), torch.arange(9) % 7
    with pytest.raises(
        ConfigError, match=r"labels have shape \(2,\), but the network gives \(9,\) predictions"
    ):
        network.choose_routines(x, labels[:2], sampling=QUICK)
    with pytest.raises(ConfigError, match="class 7 is none of the network's 7 outputs; wanted 0 to 6"):
        HalfNetwork.convert(module, x, labels + 1)
    with pytest.raises(
        ValueError, match=r"gives shape \(9, 7\); wanted the shape of the exact results, \(9, 6\)"
    ):
        network.choose_routines(x, exact=torch.zeros(9, 6), sampling=QUICK)
    with pytest.raises(ValueError, match=r"a batch of at least 1, found 9 and 1\.5"):
        network.choose_routines(x, batch=1.5, sampling=QUICK)
    images = torch.randn(4, 3, 2, 4, generator=generator)
    with pytest.raises(ConfigError, match=r"the network gives \(4, 2, 4\) predictions"):
        HalfNetwork.convert(nn.Conv2d(3, 5, 1), images, labels[:4])


def test_conversion_fails_closed_to_float32_weights_and_activations(case):
    module, x = case
    with pytest.warns(
        UserWarning, match=r"layers add more than layer_error=1e-09 by themselves.*Budget\(layer_error="
    ):
        network = HalfNetwork.convert(module, x, budget=Budget(layer_error=1e-9, output_error=0.0))
    tensors = network.tensors()
    assert torch.equal(network(x), network.float_twin()(x))
    for layer in network.layers:
        assert layer.input_dtype == layer.output_dtype == "float32"
        if layer.has_weights:
            assert layer.weight_dtype == "float32"
            assert layer.routine.endswith("fp32")
            assert tensors[f"{layer.name}.weight"].dtype == torch.float32
    again = HalfNetwork.from_plan(json.loads(json.dumps(network.plan())), tensors)
    assert torch.equal(again(x), network(x))


def test_only_the_layers_that_cost_too_much_are_closed(generator):
    """A first layer of whole numbers is exact in half precision; the second is not: its error is over the budget."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 3))
    with torch.no_grad():
        module[1].weight.copy_(torch.randint(-4, 5, (8, 8), generator=generator))
        module[1].bias.zero_()
        module[2].weight.copy_(torch.randn(3, 8, generator=generator))
    x = torch.randint(-8, 9, (16, 1, 2, 4), generator=generator).float()
    network = HalfNetwork.convert(module, x, budget=Budget(layer_error=1e-5))
    assert [layer.weight_dtype for layer in network.layers] == ["float16", "float32"]


def test_labels_that_do_not_fit_the_calibration_are_refused(mlp):
    module, x = mlp
    with pytest.raises(ConfigError, match=r"9 inputs and labels of shape \(8,\)"):
        HalfNetwork.convert(module, x, torch.zeros(8, dtype=torch.long))


def test_the_proposed_budget_of_a_layer_lets_a_layer_stay_in_half_precision(mlp):
    module, x = mlp
    with pytest.warns(UserWarning, match="stays at float32 altogether") as caught:
        HalfNetwork.convert(module, x, budget=Budget(layer_error=1e-7, output_error=1.0))
    (proposed,) = re.findall(r"Budget\(layer_error=([0-9.e-]+)\)", str(caught[0].message))
    network = HalfNetwork.convert(module, x, budget=Budget(layer_error=float(proposed), output_error=1.0))
    assert any(layer.has_weights and layer.weight_dtype == "float16" for layer in network.layers)
