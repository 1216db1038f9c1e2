import copy
import json
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from pipeline.precision import Budget, HalfNetwork, Sampling, execution, routines
from pipeline.precision.calibration import SAMPLES_AT_ONCE
from pipeline.precision.error import routine_bound
from pipeline.precision.execution import BATCH, Execution
from pipeline.precision.reference import reference
from pipeline.precision.routines import all_routines, candidates
from pipeline.precision.stored import digest_of


def relative(found, wanted):
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


def half_error(n_roundings):
    """Each rounding to binary16, of weights or of activations, adds at most 2^-11 relative to |W| |x|; these networks
    have random signs, for which |W| |x| exceeds the result's norm by a factor well below 20."""
    return 20 * n_roundings * 2.0**-11


def single_error(n_roundings):
    """The same for binary32, whose unit roundoff is 2^-24."""
    return 2.0**-13 * half_error(n_roundings)


def test_a_converted_network_agrees_with_the_module_in_float64(case, instruction_set):
    module, x = case
    network = HalfNetwork.convert(module, x, instruction_set=instruction_set)
    with torch.no_grad():
        wanted = module.double()(x.double())
    found = network(x)
    assert found.dtype == torch.float32
    assert found.shape == wanted.shape
    assert relative(found, wanted) < half_error(2 * len(network.layers))
    assert relative(network.float_twin()(x), wanted) < single_error(2 * len(network.layers))
    assert network.n_saturated == 0


def test_every_layer_of_the_half_network_is_near_float64(case, instruction_set):
    module, x = case
    network = HalfNetwork.convert(module, x, instruction_set=instruction_set)
    for number, error in enumerate(network.layer_errors(x)):
        assert error.layer == network.layers[number].name
        assert error.relative_error < half_error(2 * (number + 1))
        assert error.n_saturated == 0


def test_features_are_the_input_of_the_last_linear_layer_in_the_modules_order(case, instruction_set):
    module, x = case
    network = HalfNetwork.convert(module, x, instruction_set=instruction_set)
    with torch.no_grad():
        wanted = module[:-1](x)
    assert relative(network.features(x), wanted) < half_error(2 * len(network.layers))
    assert relative(network.float_twin().features(x), wanted) < single_error(2 * len(network.layers))
    last, stored = network.layers[-1], network.tensors()
    weight, bias, correction = (
        stored[f"{last.name}.{part}"].double() for part in ("weight", "bias", "bias_correction")
    )
    bias = bias - correction[1 if last.routine.endswith("bf16") else 0]
    features = network.features(x).double()
    magnitude = features.abs() @ weight.abs().T + bias.abs()
    bound = routine_bound(magnitude, weight.shape[1], half_output=False)
    assert (network(x).double() - (features @ weight.T + bias)).abs().le(bound).all()


@pytest.mark.parametrize("n", [0, 1, 2, 63, 64, 65, 70])
def test_samples_do_not_depend_on_those_beside_them(case, n):
    module, x = case
    network = HalfNetwork.convert(module, x)
    found, wanted = network(x[:n]), network(x)[:n]
    alone = n % BATCH == 1  # its last sample takes another routine for products, whose sum has another order
    assert torch.equal(found[: n - alone], wanted[: n - alone])
    if alone:
        assert relative(found[-1], wanted[-1]) < half_error(len(network.layers))
    assert network.features(x[:n]).shape[0] == n


@pytest.mark.parametrize("algorithm", ["direct", "winograd2", "winograd4"])
def test_an_empty_batch_is_run_by_every_routine(algorithm, instruction_set):
    module = nn.Sequential(
        nn.Conv2d(4, 5, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(45, 3)
    ).eval()
    network = HalfNetwork.convert(module, torch.randn(2, 4, 6, 6), instruction_set=instruction_set)
    network = network.with_routines({"0": f"{algorithm} fp16"})
    assert [len(y) for y in network.execution.activations(torch.empty(0, 4, 6, 6))] == [0, 0, 0]
    assert network(torch.empty(0, 4, 6, 6)).shape == (0, 3)
    for native in network.execution.native:
        assert native.flops(0) == 0
        assert native.conversions(0) >= 0
        assert native.workspace_bytes(0) >= 0


def test_a_plan_from_another_processor_runs_on_routines_that_are_there(case):
    module, x = case
    network = HalfNetwork.convert(module, x)
    plan = network.plan()
    for layer in plan["layers"]:
        layer["routine"] = "winograd9 bf16"
    with pytest.warns(
        UserWarning, match="portable runs other routines than the plan says .* for winograd9 bf16"
    ):
        again = HalfNetwork.from_plan(plan, network.tensors(), instruction_set="portable")
    for layer in again.execution.layers:
        assert layer.routine == candidates(layer, "portable")[0]
    assert relative(again(x), network(x)) < half_error(2 * len(network.layers))


def test_every_routine_of_an_instruction_set_is_known(instruction_set):
    module = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.Flatten(), nn.Linear(180, 3)).eval()
    network = HalfNetwork.convert(module, torch.randn(2, 4, 6, 6))
    for layer in network.layers:
        assert set(candidates(layer, instruction_set)) <= set(all_routines(layer))
    assert {"direct bf16", "winograd2 bf16"} <= set(all_routines(network.layers[0]))


def test_only_results_too_small_for_binary16_count_as_flushed():
    """A ReLU also gives zero where rounding turned a small positive sum negative, or cancelled it."""
    module = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        # 1 + 2^-12 is rounded to 1.
        for part, weight in ((module[0], [[1 + 2.0**-12, -1.0]]), (module[2], [[1.0]])):
            part.weight.copy_(torch.tensor(weight))
            part.bias.zero_()
    network = HalfNetwork.convert(module, torch.eye(2))
    assert network.layers[0].output_dtype == "float16"
    assert network.layers[0].weight_dtype == "float16"
    for size, n_flushed in ((1.0, 0), (2.0**-12, 0), (2.0**-14, 1)):
        error = network.layer_errors(torch.full((1, 2), size))[0]
        assert (error.relative_error, error.n_flushed) == (1.0, n_flushed)


def test_a_prepared_run_counts_what_saturates_and_waits_for_its_turn(case):
    module, x = case
    network = HalfNetwork.convert(module, x)
    parts = [x[start : start + 10] for start in range(0, 70, 10)]
    runs = [network.execution.prepared(part) for part in parts] * 20
    wanted = [runs[number]() for number in range(len(parts))] * 20
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda run: run(), runs)) == wanted
    assert network.n_saturated == 0
    with pytest.warns(
        UserWarning, match=r"\d+ activations are too large for binary16 .* of them in layer '\w+'"
    ):
        network(1e6 * x[:10])
    counted = network.n_saturated
    assert counted > 0
    assert network.execution.prepared(1e6 * x[:10])() == counted
    assert network.n_saturated == 2 * counted


def test_the_same_call_twice_gives_the_same_bits(case):
    module, x = case
    network = HalfNetwork.convert(module, x)
    assert torch.equal(network(x), network(x))


def test_threads_that_call_at_once_get_their_own_results(case):
    module, x = case
    network = HalfNetwork.convert(module, x)
    parts = [x[start : start + 10] for start in range(0, 70, 10)] * 20
    wanted = [network(part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        for found, part in zip(pool.map(network, parts), wanted, strict=True):
            assert torch.equal(found, part)


def test_the_instruction_sets_agree(case):
    module, x = case
    best = HalfNetwork.convert(module, x)
    portable = HalfNetwork.convert(module, x, instruction_set="portable")
    assert relative(best(x), portable(x)) < half_error(len(best.layers))
    assert relative(best.float_twin()(x), portable.float_twin()(x)) < single_error(len(best.layers))


def test_plan_and_tensors_make_the_same_network_again(case):
    module, x = case
    network = HalfNetwork.convert(module, x)
    plan = json.loads(json.dumps(network.plan(), allow_nan=False))
    again = HalfNetwork.from_plan(plan, {name: tensor.clone() for name, tensor in network.tensors().items()})
    assert again.layers == network.layers
    assert torch.equal(again(x), network(x))
    assert again.plan() == network.plan()


def test_tensors_are_half_weights_in_torchs_order_and_single_biases(case):
    module, x = case
    network = HalfNetwork.convert(module, x)
    modules = dict(module.named_modules())
    for layer in network.layers:
        if layer.has_weights:
            weight = network.tensors()[f"{layer.name}.weight"]
            assert (weight.dtype, weight.shape) == (torch.float16, modules[layer.name].weight.shape)
            assert network.tensors()[f"{layer.name}.bias"].dtype == torch.float32
    assert network.n_bytes_fp16 < 0.6 * network.n_bytes_fp32


def test_a_network_from_its_plan_has_the_widened_weights_in_its_twin(mlp):
    module, x = mlp
    network = HalfNetwork.convert(module, x)
    again = HalfNetwork.from_plan(network.plan(), network.tensors())
    widened = {name: tensor.float() for name, tensor in network.tensors().items()}
    for layer in network.layers:
        widened[f"{layer.name}.bias"] -= widened[f"{layer.name}.bias_correction"][0]
    wanted = reference(network.layers, widened, x)[-1]
    assert relative(again.float_twin()(x), wanted) < single_error(len(network.layers))
    assert relative(again(x), wanted) < half_error(len(network.layers))


def test_channels_far_out_of_range_are_scaled_and_each_comes_out_right(mlp, instruction_set):
    module, x = mlp
    last = module[4]
    with torch.no_grad():
        for channel, factor in ((0, 1e6), (1, 1e-9)):
            last.weight[channel] *= factor
            last.bias[channel] *= factor
    network = HalfNetwork.convert(module, x, instruction_set=instruction_set)
    with torch.no_grad():
        wanted = module.double()(x.double())
    report = network.layers[1].rounding
    assert (report.n_scaled, report.n_flushed) == (2, 0)
    assert report.n_overflow > 0
    assert report.worst_channel_error < 2.0**-11
    found, single = network(x), network.float_twin()(x)
    for channel in range(wanted.shape[1]):
        assert relative(found[:, channel], wanted[:, channel]) < half_error(4)
        assert relative(single[:, channel], wanted[:, channel]) < single_error(4)


@pytest.mark.parametrize("factor", [1e6, 1e-9])
def test_activations_that_binary16_does_not_hold_are_stored_as_single(mlp, instruction_set, factor):
    module, x = mlp
    with torch.no_grad():
        for parameter in module[1].parameters():
            parameter *= factor
        module[4].weight /= factor
    network = HalfNetwork.convert(module, x, instruction_set=instruction_set)
    with torch.no_grad():
        wanted = module.double()(x.double())
    assert network.layers[0].output_dtype == network.layers[1].input_dtype == "float32"
    assert relative(network(x), wanted) < half_error(4)
    assert network.n_saturated == 0


def test_the_calibration_runs_in_parts_and_every_part_counts(mlp, monkeypatch):
    module, x = mlp
    sizes = []

    def steps(self, part, run=Execution.steps):
        sizes.append(len(part))
        return run(self, part)

    monkeypatch.setattr(Execution, "steps", steps)
    calibration = x[torch.arange(70) % 9]
    calibration[69] *= 1e6
    network = HalfNetwork.convert(module, calibration)
    assert (max(sizes), sum(sizes)) == (SAMPLES_AT_ONCE, 70)
    assert network.layers[0].output_dtype == "float32"


def test_activations_that_outgrow_the_calibration_saturate_and_are_counted(mlp):
    module, x = mlp
    network = HalfNetwork.convert(module, x)
    assert network.layers[0].output_dtype == "float16"
    with pytest.warns(
        UserWarning, match=r"of them in layer '1': inputs exceed what .* calibrated with"
    ) as told:
        logits = network(1e6 * x)
    assert f"{network.n_saturated} activations" in str(told[0].message)
    assert torch.equal(network(1e6 * x), logits)  # counted, and not told again
    assert logits.isfinite().all()
    assert network.n_saturated > 0
    assert sum(error.n_saturated for error in network.layer_errors(1e6 * x)) > 0
    assert sum(network.execution.saturated(1e6 * x[torch.arange(200) % len(x)]).values()) == sum(
        sum(network.execution.saturated(1e6 * one).values()) for one in x[torch.arange(200) % len(x)].split(1)
    )


def test_a_network_is_pickled_and_copied(case):
    module, x = case
    network = HalfNetwork.convert(module, x)
    for again in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        assert again.layers == network.layers
        assert torch.equal(again(x), network(x))
        assert torch.equal(again.float_twin()(x), network.float_twin()(x))


def test_inputs_of_any_layout_and_type_give_the_same(case):
    module, x = case
    network = HalfNetwork.convert(module, x)
    wanted = network(x)
    assert torch.equal(network(x.to(memory_format=torch.channels_last)), wanted)
    assert torch.equal(network(x.double()), wanted)
    assert torch.equal(network(x.clone().requires_grad_()), wanted)


def test_features_of_a_single_linear_layer_are_the_inputs(generator):
    network = HalfNetwork.convert(nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), torch.ones(1, 1, 2, 3))
    x = torch.randn(3, 1, 2, 3, generator=generator)
    assert torch.equal(network.features(x), x.flatten(1))


def test_a_network_from_its_plan_counts_rounding_if_it_is_given_the_complete_weights(case):
    module, x = case
    network = HalfNetwork.convert(module, x)
    plan, tensors = json.loads(json.dumps(network.plan())), network.tensors()
    again = HalfNetwork.from_plan(plan, tensors, network.parameters)
    assert again.layer_errors(x) == network.layer_errors(x)
    assert torch.equal(again.float_twin()(x), network.float_twin()(x))
    without = HalfNetwork.from_plan(plan, tensors).layer_errors(x)
    # Weights and results are rounded alike, so that the errors of both together are larger than those of one.
    more, less = (sum(error.added_error for error in errors) for errors in (network.layer_errors(x), without))
    assert more > less


def test_the_digest_depends_on_every_bit_and_not_on_the_order():
    tensors = {"a": torch.ones(2), "b": torch.ones(2)}
    assert digest_of(tensors) == digest_of(dict(reversed(tensors.items())))
    assert digest_of(tensors) != digest_of({**tensors, "b": torch.tensor([1.0, 1.0 + 2.0**-23])})


class Cosines(nn.Module):
    """Directions of vectors, some of which are zero: they are divided by 1e-12, which binary16 does not hold."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 4, 1, bias=False), nn.Linear(4, 2)

    def forward(self, x):
        y = nn.functional.normalize(self.layer(x), dim=1)
        return self.head(y.mean((2, 3)))


def test_what_is_divided_by_is_not_rounded_to_zero(generator):
    module, x = Cosines().eval(), torch.randn(3, 3, 4, 4, generator=generator)
    x[:, :, 0] = 0
    network = HalfNetwork.convert(module, x)
    with torch.no_grad():
        assert relative(network(x), module.double()(x.double())) < half_error(2 * len(network.layers))


def test_conversion_and_choice_pack_no_layer_twice(monkeypatch, generator):
    """The search for layers to keep at float32 tries many networks, and so does that for the fastest routines."""
    packed = Counter()

    def counted(layer, parameters, instruction_set, build=routines.build):
        packed[layer] += 1
        return build(layer, parameters, instruction_set)

    torch.manual_seed(0)  # so that it is the same budget which some layers exceed
    module = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(9)))
    x = torch.randn(2, 8, 5, 6, generator=generator)
    network = HalfNetwork.convert(module, x)
    error = relative(network(x), network.float_twin()(x))
    monkeypatch.setattr(execution, "build", counted)
    network = HalfNetwork.convert(module, x, budget=Budget(output_error=0.98 * error))
    assert {layer.weight_dtype for layer in network.layers} == {
        "float16",
        "float32",
    }  # so it was searched for
    assert set(packed.values()) == {1}
    packed.clear()
    sampling = Sampling(n_samples=3, seconds_at_most=0.05)
    network.choose_routines(x, sampling=sampling, budget=Budget(output_error=error))
    assert set(packed.values()) == {1}
