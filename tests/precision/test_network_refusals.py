"""What a half-precision network does not take: each is refused in one sentence."""

import warnings

import pytest
import torch
from torch import nn

from pipeline.errors import ArtifactError, ConfigError
from pipeline.precision import HalfNetwork


def test_what_the_network_cannot_take_is_said_before_anything_runs(mlp):
    module, x = mlp
    network = HalfNetwork.convert(module, x)
    shape = r"inputs must have shape \(n, 1, 7, 5\), found \(9, 1, 7, 4\)"
    for run in (network, network.features, network.time_layers, network.choose_routines):
        with pytest.raises(ValueError, match=shape):
            run(x[..., :4])
        with pytest.raises(TypeError, match=r"torch tensor, found ndarray; use torch\.from_numpy"):
            run(x.numpy())
    for samples, batch in ((x[:0], 1), (x, 0)):
        with pytest.raises(ValueError, match="at least one sample and a batch of at least 1"):
            network.choose_routines(samples, batch=batch)
    for sizes in ((), (1, 0)):
        with pytest.raises(ValueError, match="batch sizes must be numbers of at least 1"):
            network.time_layers(x, batch_sizes=sizes)
    with pytest.raises(ValueError, match="mode must be one of warm, cold, network, found 'lukewarm'"):
        network.time_layers(x, mode="lukewarm")


def test_a_list_of_inputs_of_different_sizes_is_refused(mlp):
    module, x = mlp
    network = HalfNetwork.convert(module, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of a prototype
        nested = torch.nested.nested_tensor([x[0], x[1]])
    with pytest.raises(TypeError, match=r"dense real numbers, found torch\.float32 \(nested\)"):
        network(nested)
    with pytest.raises(TypeError, match="the calibration set must be dense real numbers"):
        HalfNetwork.convert(module, nested)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_calibration_set_that_is_not_finite_is_refused(mlp, value):
    module, x = mlp
    x[3, 0, 2, 1] = value
    with pytest.raises(ConfigError, match=r"calibration set holds NaN or infinity.*leave such inputs out"):
        HalfNetwork.convert(module, x)


def test_layers_and_routines_that_do_not_exist_are_refused(mlp):
    module, x = mlp
    network = HalfNetwork.convert(module, x)
    with pytest.raises(ValueError, match="there is no layer 'head'; wanted one of 1, 4"):
        network.with_routines({"head": "product fp16"})
    for nonsense in ("winograd2 fp16", "product fp99", "nonsense", ""):
        with pytest.raises(
            ValueError, match=f"layer '1' has no routine '{nonsense}'; wanted one of product fp16"
        ):
            network.with_routines({"1": nonsense})


def test_inputs_that_do_not_fit_are_refused(mlp):
    module, x = mlp
    network = HalfNetwork.convert(module, x)
    with pytest.raises(ValueError, match=r"shape \(n, 1, 7, 5\), found \(9, 1, 5, 7\)"):
        network(x.transpose(2, 3))
    with pytest.raises(ValueError, match="on the CPU"):
        network(torch.empty(1, 1, 7, 5, device="meta"))


def test_features_of_a_network_without_a_last_linear_layer_are_refused():
    network = HalfNetwork.convert(nn.Sequential(nn.Conv2d(1, 2, 1)), torch.randn(2, 1, 3, 3))
    with pytest.raises(ConfigError, match="last layer '0' is a conv2d"):
        network.features(torch.randn(2, 1, 3, 3))


def test_an_empty_calibration_set_is_refused():
    with pytest.raises(ConfigError, match="at least one input"):
        HalfNetwork.convert(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.empty(0, 1, 2, 2))


def test_not_a_number_among_the_weights_is_refused_with_the_layers_name(mlp):
    module, x = mlp
    with torch.no_grad():
        module[4].weight[0, 0] = float("nan")
    with pytest.raises(ConfigError, match="layer '4' has a weight of magnitude nan"):
        HalfNetwork.convert(module, x)


def test_a_plan_for_other_weights_is_refused(mlp):
    module, x = mlp
    network = HalfNetwork.convert(module, x)
    plan, tensors = network.plan(), network.tensors()
    changed = {**tensors, "1.weight": tensors["1.weight"] * 2}
    with pytest.raises(ArtifactError, match="written for other weights"):
        HalfNetwork.from_plan(plan, changed)
    with pytest.raises(ArtifactError, match=r"'1.weight' of shape \(33, 35\), found nothing"):
        HalfNetwork.from_plan(plan, {})
    with pytest.raises(ArtifactError, match="format 99"):
        HalfNetwork.from_plan({**plan, "format": 99}, tensors)


SPOILT = {
    "kind": ("nonsense", "layer '4' is of an unknown kind 'nonsense'"),
    "function": ("nonsense", "layer '4' has an unknown function 'nonsense'"),
    "source": ("nobody", "layer '4' reads 'nobody', which no layer before it gives"),
    "addend": ("4", "layer '4' reads '4', which no layer before it gives"),
    "extra": (1, "the plan cannot be read"),
    "input_shape": (None, "the plan cannot be read"),
}


@pytest.mark.parametrize("key", SPOILT)
def test_a_plan_that_is_spoilt_is_refused_in_one_line(mlp, key):
    module, x = mlp
    network = HalfNetwork.convert(module, x)
    plan, tensors = network.plan(), network.tensors()
    value, words = SPOILT[key]
    plan["layers"][-1][key] = value
    with pytest.raises(ArtifactError, match=words) as error:
        HalfNetwork.from_plan(plan, tensors)
    assert "\n" not in str(error.value)
    for nonsense in (
        [],
        {**plan, "layers": []},
        {"format": plan["format"], "layers": network.plan()["layers"]},
    ):
        with pytest.raises(ArtifactError, match="plan"):
            HalfNetwork.from_plan(nonsense, tensors)


def test_errors_of_no_sample_are_refused_and_those_of_not_a_number_are_none(mlp):
    module, x = mlp
    network = HalfNetwork.convert(module, x)
    with pytest.raises(ValueError, match="at least one sample to take errors of"):
        network.layer_errors(x[:0])
    assert all(error.sqnr_db != error.sqnr_db for error in network.layer_errors(x * float("nan")))


def test_complete_weights_of_another_network_are_refused(mlp):
    module, x = mlp
    network = HalfNetwork.convert(module, x)
    plan, tensors, complete = network.plan(), network.tensors(), dict(network.parameters)
    complete["4.weight"] = complete["4.weight"] + 2.0**-11
    with pytest.raises(
        ArtifactError, match=r"layer '4': the stored weights differ from the complete ones by .* in the plan"
    ):
        HalfNetwork.from_plan(plan, tensors, complete)
    complete = dict(network.parameters)
    complete["1.bias"] = complete["1.bias"] + torch.eye(33)[5]
    with pytest.raises(ArtifactError, match="layer '1': the stored bias differs from the complete one"):
        HalfNetwork.from_plan(plan, tensors, complete)
    del complete["4.weight"]
    with pytest.raises(ArtifactError, match=r"'4.weight' of shape \(7, 33\), found nothing"):
        HalfNetwork.from_plan(plan, tensors, complete)


def test_convert_refuses_arrays_by_name_and_a_network_says_what_it_is():
    module, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 500)), torch.rand(4, 3, 2, 2)
    for wrong in ((x.numpy(), None), (x, torch.zeros(4).numpy())):
        with pytest.raises(TypeError, match=r"must be a torch tensor, not ndarray; use torch\.from_numpy"):
            HalfNetwork.convert(module, *wrong)
    network = HalfNetwork.convert(module, x)
    # 12 * 500 weights of two bytes instead of four, 500 biases of four, and two corrections of two bytes for each.
    assert repr(network) == (
        f"HalfNetwork({len(network.layers)} layers on {network.instruction_set}, 16.0 kB instead of 26.0 kB)"
    )
