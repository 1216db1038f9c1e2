"""The bfloat16 routines, where the processor has them, against float64 on operands that torch rounded."""

import pytest
import torch
from torch.nn import functional

from pipeline.precision import _native
from pipeline.precision.error import routine_bound

SETS = [name for name in _native.instruction_sets() if "product_bf16" in _native.linear_routines(name)]


@pytest.fixture(
    params=SETS or [pytest.param(None, marks=pytest.mark.skip("no bfloat16 products on this machine"))]
)
def brain_set(request):
    return request.param


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("n_inputs", [1, 2, 15, 16, 17, 33, 97, 2100])
def test_a_product_of_rounded_operands_is_within_its_bound(brain_set, dtype, n_inputs, generator):
    for batch, n_outputs in [(1, 1), (2, 17), (5, 33), (13, 64)]:
        weight = torch.randn(n_outputs, n_inputs, generator=generator).to(dtype)
        bias = torch.randn(n_outputs, generator=generator)
        x = torch.randn(batch, n_inputs, generator=generator).to(dtype)
        y = torch.empty(batch, n_outputs)
        layer = _native.linear(
            brain_set, weight, torch.full((n_outputs,), 2.0), bias, False, dtype == torch.float16, False,
            routine="product_bf16",
        )  # fmt: skip
        layer.run(x, y)
        a, w = x.bfloat16().double(), weight.bfloat16().double()
        magnitude = 2 * a.abs() @ w.abs().T + bias.double().abs()
        exact = 2 * a @ w.T + bias.double()
        assert (y.double() - exact).abs().le(routine_bound(magnitude, n_inputs + 1, half_output=False)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [
        ((7, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
        ((3, 28), (3, 3), (2, 1), (1, 1), (1, 1)),
        ((6, 5), (1, 1), (1, 1), (0, 0), (1, 1)),
        ((9, 8), (2, 3), (1, 2), (0, 2), (2, 2)),
    ],
)
@pytest.mark.parametrize(("n_channels", "n_outputs"), [(2, 1), (16, 33), (34, 17)])
def test_a_convolution_of_rounded_operands_is_within_its_bound(
    brain_set, dtype, size, kernel, stride, padding, dilation, n_channels, n_outputs, generator
):
    weight = torch.randn(n_outputs, n_channels, *kernel, generator=generator).to(dtype)
    x = torch.randn(2, n_channels, *size, generator=generator).to(dtype)
    layer = _native.convolution(
        brain_set, weight.permute(0, 2, 3, 1).reshape(n_outputs, -1).contiguous(), torch.ones(n_outputs),
        torch.zeros(n_outputs), True, dtype == torch.float16, False, image=(n_channels, *size), kernel=kernel,
        stride=stride, padding=padding, dilation=dilation, routine="direct_bf16",
    )  # fmt: skip
    a, w = x.bfloat16().double(), weight.bfloat16().double()
    exact = functional.conv2d(a, w, None, stride, padding, dilation).relu().permute(0, 2, 3, 1)
    magnitude = functional.conv2d(a.abs(), w.abs(), None, stride, padding, dilation).permute(0, 2, 3, 1)
    y = torch.empty(exact.shape)
    layer.run(x.permute(0, 2, 3, 1).contiguous(), y)
    assert (y.double() - exact).abs().le(routine_bound(magnitude, w[0].numel(), half_output=False)).all()


def test_an_odd_number_of_channels_is_not_offered_in_pairs(brain_set):
    offered = _native.convolution_routines(brain_set, (3, 3), (1, 1), (1, 1), 1, 3, 8)
    assert "direct_bf16" not in offered
    assert "direct_bf16" in _native.convolution_routines(brain_set, (3, 3), (1, 1), (1, 1), 1, 4, 8)
