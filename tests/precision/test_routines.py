"""The native routines against float64, within a derived bound, for every instruction set of this machine."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.precision import _native
from pipeline.precision.error import routine_bound
from pipeline.precision.routines import instruction_sets

SIZES = [1, 7, 15, 16, 17, 31, 33, 63, 65, 97]
DTYPES = [torch.float16, torch.float32]
GEOMETRIES = {  # image, kernel, stride, padding, dilation
    "1x1": ((1, 1), (1, 1), (1, 1), (0, 0), (1, 1)),
    "3x3 on one pixel": ((1, 1), (3, 3), (1, 1), (1, 1), (1, 1)),
    "3x3 same": ((7, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    "3x3 on a wide image": ((3, 28), (3, 3), (1, 1), (1, 1), (1, 1)),
    "5x2 strided": ((9, 13), (5, 2), (2, 3), (2, 0), (1, 1)),
    "1x1 strided": ((5, 10), (1, 1), (2, 3), (0, 0), (1, 1)),
    "dilated": ((10, 11), (3, 3), (1, 1), (2, 2), (2, 3)),
}


def parameters(n_outputs, n_inputs, dtype, generator):
    """Weights, power-of-two scales and biases."""
    weight = torch.randn(n_outputs, n_inputs, generator=generator).to(dtype)
    scale = 2.0 ** torch.randint(-2, 3, (n_outputs,), generator=generator).float()
    return weight, scale, torch.randn(n_outputs, generator=generator)


def affine(weight, scale, bias, product):
    """The exact result and what its error bound is relative to, for a function linear in x and weight."""
    shape = (-1, *[1] * (product(weight.double(), False).ndim - 2))
    exact = product(weight.double(), False) * scale.double().view(shape) + bias.double().view(shape)
    magnitude = product(weight.double().abs(), True) * scale.double().view(shape) + bias.double().abs().view(
        shape
    )
    return exact, magnitude


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n_outputs", SIZES)
def test_a_product_is_within_its_bound(instruction_set, dtype, n_outputs, generator):
    for n_inputs, batch in itertools.product(SIZES, [1, 2, 5, 13]):
        weight, scale, bias = parameters(n_outputs, n_inputs, dtype, generator)
        x = torch.randn(batch, n_inputs, generator=generator).to(dtype)
        y = torch.empty(batch, n_outputs)
        layer = _native.linear(instruction_set, weight, scale, bias, False, dtype == torch.float16, False)
        assert layer.run(x, y) == 0
        exact, magnitude = affine(weight, scale, bias, lambda w, positive, x=x: absolute(x, positive) @ w.T)
        bound = routine_bound(magnitude, n_inputs, half_output=False)
        assert (y.double() - exact).abs().le(bound).all(), (n_inputs, batch)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("n_channels", "n_outputs"), [(1, 1), (3, 17), (16, 33), (17, 65), (33, 16)])
def test_a_convolution_is_within_its_bound(
    instruction_set, dtype, geometry, n_channels, n_outputs, generator
):
    size, kernel, stride, padding, dilation = GEOMETRIES[geometry]
    half = dtype == torch.float16
    weight, scale, bias = parameters(n_outputs, n_channels * kernel[0] * kernel[1], dtype, generator)
    x = torch.randn(2, *size, n_channels, generator=generator).to(dtype)
    layer = _native.convolution(
        instruction_set,
        weight,
        scale,
        bias,
        True,
        half,
        half,
        image=(n_channels, *size),
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
    )
    y = torch.empty(2, layer.output_size, dtype=dtype)
    layer.run(x, y)

    def convolve(w, positive):
        w = w.view(n_outputs, *kernel, n_channels).permute(0, 3, 1, 2)
        image = absolute(x, positive).permute(0, 3, 1, 2)
        return functional.conv2d(image, w, None, stride, padding, dilation)

    exact, magnitude = affine(weight, scale, bias, convolve)
    bound = routine_bound(magnitude, weight.shape[1], half_output=half).permute(0, 2, 3, 1).reshape(2, -1)
    exact = exact.relu().permute(0, 2, 3, 1).reshape(2, -1)
    assert (y.double() - exact).abs().le(bound).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("average", [False, True])
def test_pooling_takes_the_maximum_exactly_and_the_mean_within_rounding(
    instruction_set, dtype, relu, average, generator
):
    for n_channels in [1, 15, 16, 17, 33, 64]:
        check_pooling(instruction_set, dtype, n_channels, relu, average, generator)


def check_pooling(instruction_set, dtype, n_channels, relu, average, generator):
    x = torch.randn(3, 6, 5, n_channels, generator=generator).to(dtype)
    half = dtype == torch.float16
    bounds = {"row_start": [0, 2, 4], "row_end": [2, 5, 6], "column_start": [0, 1], "column_end": [2, 5]}
    layer = _native.pooling(
        instruction_set,
        (n_channels, 6, 5),
        **bounds,
        average=average,
        relu=relu,
        half_input=half,
        half_output=half,
    )
    y = torch.empty(3, 3, 2, n_channels, dtype=dtype)
    layer.run(x, y)
    reduce = torch.mean if average else torch.amax
    for i, rows in enumerate([slice(0, 2), slice(2, 5), slice(4, 6)]):
        for j, columns in enumerate([slice(0, 2), slice(1, 5)]):
            window = x[:, rows, columns].double()
            n = window.shape[1] * window.shape[2]
            bound = routine_bound(window.abs().mean(dim=(1, 2)), n, half_output=half) if average else 0.0
            exact = reduce(window, dim=(1, 2))
            exact = exact.relu() if relu else exact
            assert (y[:, i, j].double() - exact).abs().le(bound).all()


def test_results_beyond_the_range_saturate_and_are_counted(instruction_set):
    weight = torch.tensor([[60000.0], [60000.0], [1.0]]).half()
    bias = torch.tensor([5503.9, 5520.0, 0.0])
    layer = _native.linear(instruction_set, weight, torch.ones(3), bias, False, True, True)
    y = torch.empty(2, 3).half()
    assert layer.run(torch.tensor([[1.0], [-2.0]]).half(), y) == 3
    assert y.tolist() == [[65504, 65504, 1], [-65504, -65504, -2]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_a_number_is_passed_on_and_infinity_saturates(instruction_set, value):
    weight = torch.ones(17, 3).half()
    layer = _native.linear(instruction_set, weight, torch.ones(17), torch.zeros(17), True, False, True)
    y = torch.empty(1, 17).half()
    n_saturated = layer.run(torch.tensor([[1.0, value, 2.0]]), y)
    if np.isnan(value):
        assert (n_saturated, y.isnan().all().item()) == (0, True)
    else:
        assert (n_saturated, y.eq(65504).all().item()) == (17, True)


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_maximum_over_a_window_with_not_a_number_is_not_a_number(instruction_set, at):
    x = torch.tensor([1.0, 5.0, 2.0, 3.0])
    x[at] = float("nan")
    bounds = {"row_start": [0], "row_end": [2], "column_start": [0], "column_end": [2]}
    stored = {"half_input": False, "half_output": False}
    layer = _native.pooling(instruction_set, (1, 2, 2), **bounds, average=False, relu=True, **stored)
    y = torch.empty(1, 1)
    layer.run(x.view(1, 4), y)
    assert y.isnan().all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("n_channels", [1, 40])
def test_a_maximum_of_half_precision_numbers_is_right_for_all_of_them(
    instruction_set, n_channels, relu, generator
):
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16)
    x = every[torch.randint(2**16, (2000, 1, 2, n_channels), generator=generator)]
    x[::2] = x[::2].abs().neg().nan_to_num(0.0, neginf=-1.0)  # none above zero
    x[1::4] = x[1::4].nan_to_num(0.0, posinf=1.0, neginf=-2.0)
    x[0, 0, 0], x[0, 0, 1] = torch.tensor([0xFE01 - 2**16, 0x3C00], dtype=torch.int16).view(torch.float16)
    bounds = {"row_start": [0], "row_end": [1], "column_start": [0], "column_end": [2]}
    stored = {"half_input": True, "half_output": True}
    layer = _native.pooling(instruction_set, (n_channels, 1, 2), **bounds, average=False, relu=relu, **stored)
    y = torch.empty(2000, n_channels).half()
    n_saturated = layer.run(x, y)
    exact = x.float().amax(dim=(1, 2))
    exact = exact.relu() if relu else exact
    assert n_saturated == exact.isinf().sum()
    torch.testing.assert_close(y.float(), exact.clamp(-65504, 65504), rtol=0, atol=0, equal_nan=True)


def test_subnormal_weights_and_inputs_count_in_full(instruction_set):
    weight = torch.full((1, 33), 2.0**-24).half()
    layer = _native.linear(
        instruction_set, weight, torch.tensor([2.0**24]), torch.zeros(1), False, True, False
    )
    y = torch.empty(1, 1)
    layer.run(torch.full((1, 33), 2.0**-24).half(), y)
    assert y.item() == 33 * 2.0**-24


def test_unaligned_buffers_of_numpy_and_torch_are_used_in_place(instruction_set, generator):
    weight = torch.randn(5, 19, generator=generator).half()
    layer = _native.linear(instruction_set, weight, torch.ones(5), torch.zeros(5), False, True, False)
    x = torch.randn(41, generator=generator).half()
    wanted, found = torch.empty(2, 5), np.zeros(12, dtype=np.float32)
    layer.run(x[3:].view(2, 19), wanted)
    layer.run(x.numpy()[3:].reshape(2, 19), found[1:11].reshape(2, 5))
    np.testing.assert_array_equal(found[1:11].reshape(2, 5), wanted.numpy())
    assert found[0] == found[11] == 0


def test_an_input_that_is_not_contiguous_is_refused_rather_than_copied():
    layer = _native.linear("portable", torch.ones(2, 4), torch.ones(2), torch.zeros(2), False, False, False)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        layer.run(torch.ones(4, 3).T, torch.empty(3, 2))


@pytest.mark.parametrize(
    ("x", "y", "error", "words"),
    [
        (torch.ones(3, 5), torch.empty(3, 2), ValueError, "wanted 4 each"),
        (torch.ones(3, 4), torch.empty(2, 2), ValueError, "same first dimension"),
        (torch.ones(3, 4).half(), torch.empty(3, 2), TypeError, "input is to be float32"),
        (torch.ones(3, 4).double(), torch.empty(3, 2), TypeError, "float16 or float32"),
    ],
)
def test_arrays_that_do_not_fit_a_layer_are_refused(x, y, error, words):
    layer = _native.linear("portable", torch.ones(2, 4), torch.ones(2), torch.zeros(2), False, False, False)
    with pytest.raises(error, match=words):
        layer.run(x, y)


def test_a_kernel_larger_than_the_padded_image_is_refused():
    with pytest.raises(ValueError, match="larger than the padded image"):
        _native.convolution(
            "portable", torch.ones(1, 9), torch.ones(1), torch.zeros(1), False, False, False,
            image=(1, 2, 2), kernel=(3, 3), stride=(1, 1), padding=(0, 0), dilation=(1, 1),
        )  # fmt: skip


@pytest.mark.parametrize("batch", [1, 2, 3, 70])
def test_conversions_count_every_number_that_is_widened_or_narrowed(instruction_set, batch):
    """Inputs and results once each; weights once, or once for every tile of rows, which holds four at least."""
    weight = torch.ones(16, 8)
    arguments = (instruction_set, torch.ones(16), torch.zeros(16), False)
    half = _native.linear(arguments[0], weight.half(), *arguments[1:], True, True)
    single = _native.linear(arguments[0], weight, *arguments[1:], False, False)
    assert single.conversions(batch) == 0
    times, rest = divmod(half.conversions(batch) - batch * (8 + 16), weight.numel())
    assert rest == 0
    assert 1 <= times <= max(batch // 4, 1)


@pytest.mark.parametrize("routine", ["product", "direct", "winograd2", "depthwise"])
def test_a_residual_in_half_precision_is_converted_number_by_number(instruction_set, routine):
    ones, zeros = torch.ones(16), torch.zeros(16)

    def layer(residual):
        if routine == "product":
            weight = torch.ones(16, 8)
            return _native.linear(
                instruction_set, weight, ones, zeros, False, False, False, residual=residual, routine=routine
            )
        groups = 16 if routine == "depthwise" else 1
        weight = torch.ones(16, 9 * 16 // groups)
        return _native.convolution(
            instruction_set, weight, ones, zeros, False, False, False, image=(16, 5, 4), kernel=(3, 3), stride=(1, 1),
            padding=(1, 1), dilation=(1, 1), groups=groups, residual=residual,
            routine="direct" if routine == "depthwise" else routine,
        )  # fmt: skip

    results = 3 * layer("none").output_size
    assert [layer(kind).conversions(3) for kind in ("none", "float32", "float16")] == [0, 0, results]


@pytest.mark.parametrize("average", [False, True])
def test_only_a_maximum_of_half_precision_numbers_takes_no_conversions(instruction_set, average):
    bounds = {"row_start": [0], "row_end": [2], "column_start": [0], "column_end": [2]}
    stored = {"half_input": True, "half_output": True}
    layer = _native.pooling(instruction_set, (64, 2, 2), **bounds, average=average, relu=False, **stored)
    assert layer.conversions(3) == (3 * 64 * (4 + 1) if average else 0)


def test_the_portable_routines_are_always_there():
    assert instruction_sets()[-1] == "portable"


def absolute(x, positive):
    return x.double().abs() if positive else x.double()
