"""Biases make up for what rounded weights add on average; torch in float64 says how much that is."""

import dataclasses

import pytest
import torch
from torch import nn

from pipeline.precision import Budget, HalfNetwork
from pipeline.precision.bias_correction import corrected_bias
from pipeline.precision.onnx_export import onnx_model
from pipeline.precision.routines import build, candidates, run_layer
from pipeline.precision.stored import digest_of

CONVOLUTIONS = {
    "padded": lambda: nn.Conv2d(6, 10, 3, padding=1),
    "strided in groups": lambda: nn.Conv2d(6, 9, 3, stride=2, padding=(1, 0), groups=3),
    "depthwise": lambda: nn.Conv2d(6, 6, 5, padding=2, groups=6),
    "dilated": lambda: nn.Conv2d(6, 4, 3, dilation=2),
}


def positive(generator, n=24, size=9):
    """Images whose pixels are positive, as they are behind a ReLU, and differ in brightness."""
    brightness = 0.8 + 0.4 * torch.rand(n, 1, 1, 1, generator=generator)
    return brightness * (0.5 + torch.rand(n, 6, size, size, generator=generator))


def rounded(weight, to):
    return weight.half().to(to).double()


def wanted_correction(module, x, to):
    """The mean over samples and pixels of what rounding changes, and its standard error over the samples."""
    exact = module.double()(x.double())
    weight = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.copy_(rounded(weight, to))
        other = module(x.double())
        module.weight.copy_(weight)
    module.float()
    change = (other - exact).detach()
    by_sample = change.flatten(2).mean(2) if change.ndim == 4 else change
    return by_sample.mean(0), by_sample.std(0) / len(x) ** 0.5


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_correction_is_the_mean_change_of_the_results(name, generator):
    torch.manual_seed(1)
    module, x = CONVOLUTIONS[name]().eval(), positive(generator)
    nn.init.ones_(module.bias)
    correction = HalfNetwork.convert(nn.Sequential(module), x).tensors()["0.bias_correction"]
    for row, to in enumerate((torch.float16, torch.bfloat16)):
        mean, standard_error = wanted_correction(module, x, to)
        certain = correction[row] != 0
        assert certain.any()
        assert (mean[~certain].abs() < 5 * standard_error[~certain]).all()
        torch.testing.assert_close(correction[row].double()[certain], mean[certain], rtol=2e-3, atol=1e-7)


def test_a_linear_layer_behind_images_is_corrected_in_the_order_of_its_weights(generator):
    torch.manual_seed(2)
    x = positive(generator, size=3)
    module = nn.Sequential(nn.Flatten(), nn.Linear(54, 12)).eval()
    nn.init.ones_(module[1].bias)
    correction = HalfNetwork.convert(module, x).tensors()["1.bias_correction"]
    mean, standard_error = wanted_correction(module[1], x.flatten(1), torch.float16)
    certain = correction[0] != 0
    assert certain.any()
    assert (mean[~certain].abs() < 3.1 * standard_error[~certain]).all()
    torch.testing.assert_close(correction[0].double()[certain], mean[certain], rtol=2e-3, atol=1e-7)


def test_what_samples_do_not_agree_on_is_not_corrected(generator):
    module, x = nn.Conv2d(6, 200, 1).eval(), torch.randn(32, 6, 9, 9, generator=generator)
    both = HalfNetwork.convert(nn.Sequential(module), x).tensors()["0.bias_correction"]
    assert (both != 0).double().mean() < 0.02  # by chance, beyond three standard errors: 0.5 %
    one = HalfNetwork.convert(nn.Sequential(module), positive(generator)[:1]).tensors()["0.bias_correction"]
    assert not one.any()


def test_a_stored_network_and_an_exported_one_are_corrected_too(generator):
    onnx_reference = pytest.importorskip("onnx.reference")
    torch.manual_seed(5)
    module, x = nn.Sequential(nn.Conv2d(6, 16, 1)).eval(), positive(generator)
    nn.init.ones_(module[0].bias)
    network = HalfNetwork.convert(module, x)
    plan, tensors = network.plan(), network.tensors()
    assert torch.equal(HalfNetwork.from_plan(plan, tensors)(x), network(x))
    model = onnx_model(network.layers, tensors)
    (found,) = onnx_reference.ReferenceEvaluator(model).run(None, {"input": x.numpy()})
    with torch.no_grad():
        exact = module.double()(x.double())
    without = {key: value for key, value in tensors.items() if "correction" not in key}
    (old,) = onnx_reference.ReferenceEvaluator(onnx_model(network.layers, without)).run(
        None, {"input": x.numpy()}
    )
    means = [(torch.from_numpy(y).double() - exact).mean((0, 2, 3)).norm() for y in (found, old)]
    assert means[0] < 0.3 * means[1]


def test_a_network_that_was_stored_without_corrections_is_read(generator):
    module, x = nn.Sequential(nn.Conv2d(6, 16, 1)).eval(), positive(generator)
    network = HalfNetwork.convert(module, x)
    tensors = {key: value for key, value in network.tensors().items() if "correction" not in key}
    plan = network.plan() | {"digest": digest_of(tensors)}
    again = HalfNetwork.from_plan(plan, tensors)
    assert torch.allclose(again(x), network(x), rtol=1e-2, atol=1e-2)


def test_routines_that_transform_weights_take_the_correction_of_binary16(instruction_set, generator):
    torch.manual_seed(6)
    module, x = nn.Conv2d(6, 16, 3, padding=1).eval(), positive(generator)
    nn.init.ones_(module.bias)
    network = HalfNetwork.convert(nn.Sequential(module), x, instruction_set=instruction_set)
    both = network.tensors()["0.bias_correction"].float()
    bias = module.bias.detach()
    for routine in candidates(network.layers[0], instruction_set):
        row = 1 if routine in ("direct bf16", "product bf16") else 0
        layer = dataclasses.replace(network.layers[0], routine=routine)
        assert torch.equal(corrected_bias(layer, network.tensors(), routine), bias - both[row])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_each_precision_takes_its_own_correction(instruction_set, precision, generator):
    torch.manual_seed(3)
    module, x = nn.Conv2d(6, 16, 1).eval(), positive(generator)
    network = HalfNetwork.convert(nn.Sequential(module), x, instruction_set=instruction_set)
    layer = dataclasses.replace(network.layers[0], routine=f"direct {precision}", input_dtype="float32")
    if layer.routine not in candidates(layer, instruction_set):
        pytest.skip("not multiplied in pairs here")
    with torch.no_grad():
        exact = module.double()(x.double())
    means = []
    for tensors in (network.tensors(), {k: v for k, v in network.tensors().items() if "correction" not in k}):
        found = run_layer(layer, build(layer, tensors, instruction_set), x).double()
        means.append((found - exact).mean((0, 2, 3)).norm())
    corrected, not_corrected = means
    assert corrected < 0.3 * not_corrected


@pytest.mark.parametrize("factor", [1.0, 1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("bias", [True, False])
def test_inputs_much_smaller_than_those_of_the_calibration_keep_their_results(factor, bias, generator):
    torch.manual_seed(4)
    module = nn.Sequential(
        nn.Conv2d(6, 24, 3, bias=bias), nn.ReLU(), nn.Conv2d(24, 32, 3, bias=bias), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 25, 10, bias=bias),
    ).eval()  # fmt: skip
    x = positive(generator)
    network = HalfNetwork.convert(module, 1e3 * x)
    x = 1e3 * factor * x
    with torch.no_grad():
        exact = module.double()(x.double())
    error = ((network(x).double() - exact).norm() / exact.norm()).item()
    assert error < 3 * 8 * 2.0**-11  # what corrections may be, in each of three layers


def test_weights_at_float32_have_no_correction(generator):
    module = nn.Sequential(nn.Conv2d(6, 16, 1)).eval()
    with pytest.warns(UserWarning, match="stays at float32 altogether"):
        network = HalfNetwork.convert(module, positive(generator), budget=Budget(layer_error=1e-9))
    assert not any("correction" in name for name in network.tensors())
