"""Grouped and depthwise convolutions against float64."""

import itertools

import pytest
import torch
from torch.nn import functional

from pipeline.precision import _native
from pipeline.precision.error import routine_bound

GEOMETRIES = {  # image, kernel, stride, padding, dilation
    "3x3 same": ((7, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    "3x3 on one pixel": ((1, 1), (3, 3), (1, 1), (1, 1), (1, 1)),
    "3x3 on two rows": ((2, 9), (3, 3), (1, 1), (1, 1), (1, 1)),
    "3x3 on two columns": ((9, 2), (3, 3), (1, 1), (1, 1), (1, 1)),
    "3x3 without padding": ((28, 28), (3, 3), (1, 1), (0, 0), (1, 1)),
    "3x3 with much padding": ((4, 5), (3, 3), (1, 1), (3, 4), (1, 1)),
    "3x3 with rows apart": ((9, 8), (3, 3), (2, 1), (2, 1), (2, 1)),
    "3x3 strided": ((9, 8), (3, 3), (2, 2), (1, 1), (1, 1)),
    "5x2 dilated": ((13, 11), (5, 2), (1, 3), (2, 0), (1, 2)),
    "1x1": ((3, 3), (1, 1), (1, 1), (0, 0), (1, 1)),
    "1x1 in blocks": ((5, 16), (1, 1), (1, 1), (0, 0), (1, 1)),
    "1x1 strided": ((9, 8), (1, 1), (2, 2), (0, 0), (1, 1)),
}


def convolve(isa, routine, weight, x, geometry, groups, *, scale, bias, residual=None, relu=False):
    """Run a routine on torch's layouts."""
    size, kernel, stride, padding, dilation = geometry
    half = x.dtype == torch.float16
    layer = _native.convolution(
        isa, weight.permute(0, 2, 3, 1).reshape(len(weight), -1).contiguous(), scale, bias, relu, half, half,
        image=(x.shape[1], *size), kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups,
        residual="none" if residual is None else "float32", routine=routine,
    )  # fmt: skip
    rows, columns = (
        (n + 2 * pad - gap * (width - 1) - 1) // step + 1
        for n, width, step, pad, gap in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    y = torch.empty(len(x), rows, columns, len(weight), dtype=x.dtype)
    if residual is not None:
        residual = residual.permute(0, 2, 3, 1).contiguous()
    layer.run(x.permute(0, 2, 3, 1).contiguous(), y, residual)
    return y.permute(0, 3, 1, 2)


def check(isa, routine, geometry, dtype, n_channels, n_outputs, groups, generator):
    size, kernel, stride, padding, dilation = geometry
    weight = torch.randn(n_outputs, n_channels // groups, *kernel, generator=generator).to(dtype)
    scale = 2.0 ** torch.randint(-2, 3, (n_outputs,), generator=generator).float()
    bias = torch.randn(n_outputs, generator=generator)
    for batch in (1, 2, 5):
        x = torch.randn(batch, n_channels, *size, generator=generator).to(dtype)
        scaled = weight.double() * scale.double().view(-1, 1, 1, 1)
        exact = functional.conv2d(x.double(), scaled, bias.double(), stride, padding, dilation, groups)
        magnitude = functional.conv2d(
            x.double().abs(), scaled.abs(), bias.double().abs(), stride, padding, dilation, groups
        )
        residual = torch.randn(exact.shape, generator=generator)
        y = convolve(
            isa, routine, weight, x, geometry, groups, scale=scale, bias=bias, residual=residual, relu=True
        )
        bound = routine_bound(
            magnitude + residual.double().abs(), weight[0].numel(), half_output=dtype == torch.float16
        )
        error = (y.double() - (exact + residual.double()).relu()).abs()
        assert error.le(bound).all(), (geometry, n_channels, n_outputs, groups, batch)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_depthwise_convolution_is_within_its_bound(instruction_set, dtype, generator):
    for geometry, n in itertools.product(GEOMETRIES, [2, 3, 15, 16, 17, 33]):
        check(instruction_set, "depthwise", GEOMETRIES[geometry], dtype, n, n, n, generator)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_grouped_convolution_is_within_its_bound(instruction_set, dtype, generator):
    sizes = [(4, 6, 2), (3, 3, 3), (51, 99, 3), (32, 40, 2)]
    for geometry, (n_channels, n_outputs, groups) in itertools.product(GEOMETRIES, sizes):
        check(
            instruction_set, "direct", GEOMETRIES[geometry], dtype, n_channels, n_outputs, groups, generator
        )


def test_infinity_outside_a_window_does_not_reach_its_result(instruction_set):
    """Rows and columns that lie outside are left out, not multiplied by zero."""
    x = torch.ones(1, 16, 5, 5)
    x[0, :, 0, 0] = float("inf")
    y = convolve(
        instruction_set, "depthwise", torch.zeros(16, 1, 3, 3), x, ((5, 5), *GEOMETRIES["3x3 same"][1:]), 16,
        scale=torch.ones(16), bias=torch.ones(16),
    )  # fmt: skip
    assert y[:, :, :2, :2].isnan().all()
    assert y[:, :, 2:].eq(1).all()
    assert y[:, :, :, 2:].eq(1).all()


@pytest.mark.parametrize(("channels", "outputs", "groups"), [(4, 8, 4), (4, 4, 2), (4, 4, 1)])
def test_depthwise_is_offered_only_for_one_output_per_channel(channels, outputs, groups):
    offered = _native.convolution_routines("portable", (3, 3), (1, 1), (1, 1), groups, channels, outputs)
    assert offered[0] == "direct"
    assert "depthwise" not in offered
    assert "depthwise" in _native.convolution_routines("portable", (3, 3), (1, 1), (1, 1), 4, 4, 4)


def test_groups_that_divide_neither_channels_nor_outputs_are_refused():
    with pytest.raises(ValueError, match="groups divide the channels and the outputs"):
        _native.convolution(
            "portable", torch.ones(4, 9), torch.ones(4), torch.zeros(4), False, False, False,
            image=(4, 3, 3), kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=3,
        )  # fmt: skip


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_depthwise_windows_of_every_width_and_padding(instruction_set, kernel, stride, half, generator):
    """Blocks of outputs that share inputs, their rests, and windows that reach beyond the image on some sides."""
    for channels, rows, columns, padding in [
        (16, 5, 16, (2, 2, 2, 2)), (17, 7, 9, (1, 0, 2, 1)), (48, 9, 31, (0, 3, 1, 4)), (33, 6, 7, (2, 2, 1, 1)),
        (96, 8, 14, (1, 1, 1, 1)), (3, 11, 12, (2, 1, 0, 1)),
    ]:  # fmt: skip
        above, left, below, right = padding
        weight = torch.randn(channels, 1, kernel, kernel, generator=generator).half()
        bias = torch.randn(channels, generator=generator)
        x = torch.randn(2, channels, rows, columns, generator=generator).to(
            torch.float16 if half else torch.float32
        )
        padded = functional.pad(x.double(), (left, right, above, below))
        if min(padded.shape[2:]) < kernel:
            continue
        layer = _native.convolution(
            instruction_set, weight.permute(0, 2, 3, 1).reshape(channels, -1).contiguous(), torch.ones(channels), bias,
            False, half, half, image=(channels, rows, columns), kernel=(kernel, kernel), stride=(stride, stride),
            padding=padding, dilation=(1, 1), groups=channels, routine="depthwise", function=("clip", -1.0, 2.0),
        )  # fmt: skip
        exact = functional.conv2d(padded, weight.double(), bias.double(), stride, groups=channels)
        magnitude = functional.conv2d(
            padded.abs(), weight.double().abs(), bias.double().abs(), stride, groups=channels
        )
        y = torch.full(exact.permute(0, 2, 3, 1).shape, torch.nan, dtype=x.dtype)
        layer.run(x.permute(0, 2, 3, 1).contiguous(), y)
        error = (y.permute(0, 3, 1, 2).double() - exact.clamp(-1, 2)).abs()
        assert error.le(routine_bound(magnitude, kernel**2, half_output=half)).all(), (channels, columns)


@pytest.mark.parametrize("channels", [8, 16, 40, 88])
def test_each_saturated_result_of_a_depthwise_convolution_counts_once(instruction_set, channels, generator):
    """Also where blocks of columns overlap and the last vector of channels is not whole; nothing else is written."""
    for columns in (6, 7, 8, 20):
        x = torch.randn(1, channels, 5, columns, generator=generator).half()
        weight = (1.2e4 * torch.randn(channels, 1, 3, 3, generator=generator)).clamp(-6e4, 6e4).half()
        # The result replaces what is added to it.
        residual = torch.randn(1, 5, columns, channels, generator=generator).half()
        for kind in ("none", "float16"):
            layer = _native.convolution(
                instruction_set, weight.permute(0, 2, 3, 1).reshape(channels, -1).contiguous(), torch.ones(channels),
                torch.zeros(channels), False, True, True, image=(channels, 5, columns), kernel=(3, 3), stride=(1, 1),
                padding=(1, 1), dilation=(1, 1), groups=channels, residual=kind, routine="depthwise",
            )  # fmt: skip
            exact = functional.conv2d(x.double(), weight.double(), padding=1, groups=channels).permute(
                0, 2, 3, 1
            )
            memory = torch.full((residual.numel() + 32,), 7.0).half()
            y = memory[16:-16].view(residual.shape).copy_(residual)
            n_saturated = layer.run(x.permute(0, 2, 3, 1).contiguous(), y, y if kind == "float16" else None)
            if kind == "float16":
                exact = exact + residual.double()
            assert n_saturated == exact.abs().ge(65520).sum() > 0
            torch.testing.assert_close(y.double(), exact.clamp(-65504, 65504), rtol=1e-3, atol=2.0)
            assert memory[:16].eq(7).all()
            assert memory[-16:].eq(7).all()
