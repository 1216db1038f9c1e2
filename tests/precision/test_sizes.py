"""Every routine over the awkward sizes: channels beside the vector widths, maps down to one pixel, small batches."""

import itertools
import math

import pytest
import torch
from torch.nn import functional

from pipeline.precision import _native
from pipeline.precision.error import UNIT_BRAIN, routine_bound
from pipeline.precision.routines import instruction_sets
from pipeline.precision.winograd import winograd_bound

CHANNELS = [1, 3, 15, 16, 17, 33]
MAPS = [(1, 1), (3, 3), (7, 7), (28, 28)]
BATCHES = [1, 2, 5]
DTYPES = [torch.float16, torch.float32]
ROUTINES = {  # by name: kernel, whether every channel is a group, what is asked for
    "direct 3x3": (3, False, "direct"),
    "direct 1x1": (1, False, "direct"),
    "direct 3x3 in pairs": (3, False, "direct_bf16"),
    "direct 1x1 in pairs": (1, False, "direct_bf16"),
    "direct 3x3 split": (3, False, "direct_split"),
    "direct 1x1 split": (1, False, "direct_split"),
    "depthwise 3x3": (3, True, "depthwise"),
    "winograd2": (3, False, "winograd2"),
    "winograd4": (3, False, "winograd4"),
    "winograd2 in pairs": (3, False, "winograd2_bf16"),
}


def offered(isa, kernel, grouped):
    """The routines for eight channels and outputs."""
    groups = 8 if grouped else 1
    return _native.convolution_routines(isa, (kernel, kernel), (1, 1), (1, 1), groups, 8, 8)


CASES = [
    (isa, routine)
    for isa in instruction_sets()
    for routine, (kernel, grouped, name) in ROUTINES.items()
    if name in offered(isa, kernel, grouped)
]


def packed(isa, routine, weight, x, bias, *, half_output):
    """The layer for torch's layouts."""
    kernel, grouped, name = ROUTINES[routine]
    return _native.convolution(
        isa, weight.permute(0, 2, 3, 1).reshape(len(weight), -1).contiguous(), torch.ones(len(weight)), bias, False,
        x.dtype == torch.float16, half_output, image=tuple(x.shape[1:]), kernel=(kernel, kernel), stride=(1, 1),
        padding=(kernel // 2, kernel // 2), dilation=(1, 1), groups=x.shape[1] if grouped else 1, routine=name,
    )  # fmt: skip


def winograd_of(routine, dtype):
    """The m of F(m, 3), and how the transformed weights lie in memory."""
    stored = "bf16" if routine.endswith("in pairs") else "fp16" if dtype == torch.float16 else "fp32"
    return int(routine.removeprefix("winograd")[0]), stored


def run(layer, x, n_outputs, *, half_output):
    y = torch.empty(len(x), *x.shape[2:], n_outputs, dtype=torch.float16 if half_output else torch.float32)
    assert layer.run(x.permute(0, 2, 3, 1).contiguous(), y) == 0
    return y.permute(0, 3, 1, 2)


def test_the_routines_are_all_that_are_offered():
    names = {
        name for isa in instruction_sets() for grouped in (False, True) for name in offered(isa, 3, grouped)
    }
    assert names == {ROUTINES[routine][2] for _, routine in CASES}


def channels_of(routine):
    """The numbers of channels that a routine takes, the awkward ones."""
    _, grouped, _ = ROUTINES[routine]
    return CHANNELS[1:] if grouped else CHANNELS  # one channel is no group


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("instruction_set", "routine"), CASES)
def test_a_convolution_is_within_its_bound(instruction_set, routine, dtype, generator):
    for n_channels, size in itertools.product(channels_of(routine), MAPS):
        check_convolution(instruction_set, routine, n_channels, size, dtype, generator)


def check_convolution(instruction_set, routine, n_channels, size, dtype, generator):
    kernel, grouped, _ = ROUTINES[routine]
    half, groups = dtype == torch.float16, n_channels if grouped else 1
    for n_outputs in [n_channels] if grouped else [1, 17]:
        weight = torch.randn(n_outputs, n_channels // groups, kernel, kernel, generator=generator).to(dtype)
        bias = torch.randn(n_outputs, generator=generator)
        for batch in BATCHES:
            x = torch.randn(batch, n_channels, *size, generator=generator).to(dtype)
            layer = packed(instruction_set, routine, weight, x, bias, half_output=half)
            y = run(layer, x, n_outputs, half_output=half)
            options = {"padding": kernel // 2, "groups": groups}
            a, w = x.double(), weight.double()
            if ROUTINES[routine][2] == "direct_bf16":  # exact products of rounded factors
                a, w = x.bfloat16().double(), weight.bfloat16().double()
            exact = functional.conv2d(a, w, bias.double(), **options)
            magnitude = functional.conv2d(a.abs(), w.abs(), bias.double().abs(), **options)
            if routine.startswith("winograd"):
                added = bias.double().abs().view(-1, 1, 1)
                m, stored = winograd_of(routine, dtype)
                bound = winograd_bound(weight, x, m, added=added, weights=stored, half_output=half)
            elif routine.endswith("split"):
                # Three products for each, and their low parts' own rounding, on either side, and product left out.
                bound = (
                    routine_bound(magnitude, 3 * w[0].numel(), half_output=half)
                    + 3 * UNIT_BRAIN**2 * magnitude
                )
            else:
                bound = routine_bound(magnitude, weight[0].numel(), half_output=half)
            assert (y.double() - exact).abs().le(bound).all(), (n_channels, size, n_outputs, batch)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pooling_the_whole_map_and_in_windows_is_within_its_bound(instruction_set, dtype, generator):
    for n_channels, size in itertools.product(CHANNELS, MAPS):
        check_pooling(instruction_set, n_channels, size, dtype, generator)


def check_pooling(instruction_set, n_channels, size, dtype, generator):
    half = dtype == torch.float16
    for window in {1, min(2, size[0]), size[0]}:
        starts = list(range(0, size[0] - window + 1, window))
        ends = [start + window for start in starts]
        bounds = {"row_start": starts, "row_end": ends, "column_start": starts, "column_end": ends}
        for batch in BATCHES:
            x = torch.randn(batch, n_channels, *size, generator=generator).to(dtype)
            for average in (False, True):
                layer = _native.pooling(
                    instruction_set, (n_channels, *size), **bounds, average=average, relu=False, half_input=half,
                    half_output=half,
                )  # fmt: skip
                y = torch.empty(batch, len(starts), len(starts), n_channels, dtype=dtype)
                layer.run(x.permute(0, 2, 3, 1).contiguous(), y)
                if average:
                    exact = functional.avg_pool2d(x.double(), window)
                    magnitude = functional.avg_pool2d(x.double().abs(), window)
                    bound = routine_bound(magnitude, window**2, half_output=half)
                else:
                    exact, bound = functional.max_pool2d(x.double(), window), torch.zeros(())
                error = (y.permute(0, 3, 1, 2).double() - exact).abs()
                assert error.le(bound).all(), (n_channels, size, window, batch, average)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("instruction_set", "routine", "n_channels"),
    [
        (isa, routine, n)
        for isa, routine in CASES
        if not routine.startswith("winograd")  # whose tiles it fills: see test_winograd.py
        for n in ((4, 18) if "in pairs" in routine else (3, 17))
    ],
)
def test_what_is_not_finite_reaches_its_windows_and_no_others(
    instruction_set, routine, n_channels, value, generator
):
    kernel, grouped, _ = ROUTINES[routine]
    weight = torch.rand(n_channels, 1 if grouped else n_channels, kernel, kernel, generator=generator) + 0.5
    for dtype in (torch.float16, torch.float32):
        x = torch.randn(2, n_channels, 7, 7, generator=generator).to(dtype)
        x[1, 2, 3, 4] = value
        layer = packed(
            instruction_set, routine, weight.to(dtype), x, torch.zeros(n_channels), half_output=False
        )
        y = run(layer, x, n_channels, half_output=False)
        reached = torch.zeros(y.shape, dtype=torch.bool)
        near = slice(3 - kernel // 2, 4 + kernel // 2), slice(4 - kernel // 2, 5 + kernel // 2)
        reached[1, 2 if grouped else slice(None), near[0], near[1]] = True
        assert torch.equal(~y.isfinite(), reached)
        if routine.endswith("split"):
            continue  # infinity less its high part is not a number
        assert y[reached].isnan().all() if math.isnan(value) else y[reached].eq(value).all()


@pytest.mark.parametrize(("instruction_set", "routine"), CASES)
def test_subnormal_activations_count_in_full(instruction_set, routine):
    """Their exact multiples: each result is one weight of 2^24 times the least subnormal number."""
    kernel, grouped, _ = ROUTINES[routine]
    weight = torch.zeros(6, 1 if grouped else 6, kernel, kernel)
    for channel in range(6):
        weight[channel, 0 if grouped else channel, kernel // 2, kernel // 2] = 2.0**15
    # Below 2^8 of the least number, which bfloat16 holds too.
    x = (torch.arange(6 * 49).view(1, 6, 7, 7) % 256 * 2.0**-24).half()
    layer = packed(instruction_set, routine, weight.half(), x, torch.zeros(6), half_output=False)
    y = run(layer, x, 6, half_output=False)
    bound = torch.zeros(())
    if routine.startswith("winograd"):
        m, stored = winograd_of(routine, torch.float16)
        bound = winograd_bound(weight, x, m, weights=stored, half_output=False)
    assert (y.double() - x.double() * 2.0**15).abs().le(bound).all()
    assert y[0, 4].abs().min() > 0
