"""The bfloat16 routines, where the processor has them, against float64 on operands that torch rounded."""

import pytest
import torch
from torch.nn import functional

from pipeline.precision import _native
from pipeline.precision.error import UNIT_BRAIN, routine_bound

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
        ((9, 8), (1, 1), (2, 3), (0, 0), (1, 1)),
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


def test_groups_of_odd_numbers_of_channels_are_not_offered_in_pairs(brain_set):
    for channels, groups, offered in ((3, 1, True), (4, 1, True), (8, 4, True), (6, 2, False), (8, 8, False)):
        names = _native.convolution_routines(brain_set, (3, 3), (1, 1), (1, 1), groups, channels, 8 * groups)
        assert ("direct_bf16" in names) == offered


def test_routines_of_split_numbers_come_with_those_of_pairs():
    for name in _native.instruction_sets():
        if "product_split" in _native.linear_routines(name):
            assert name in SETS


# Every precision of multiplying in pairs: what the operands are rounded to, how many products each stands for, and what
# leaving out low times low loses of a product, as well as rounding the low parts of binary32 numbers.
PRECISIONS = {"bf16": (torch.bfloat16, 1, 0.0), "split": (torch.float16, 3, 3 * UNIT_BRAIN**2)}


def available(precision):
    return [name for name in SETS if f"product_{precision}" in _native.linear_routines(name)]


PAIRED = [(name, precision) for precision in PRECISIONS for name in available(precision)]


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (7, 2, 5), (16, 33, 31), (17, 64, 97), (130, 40, 65), (3, 4200, 16)], ids=str
)
@pytest.mark.parametrize(("name", "precision"), PAIRED)
def test_products_of_awkward_sizes_in_pairs(name, precision, shape, half, generator):
    rows, n_inputs, n_outputs = shape
    dtype, products, left_out = PRECISIONS[precision]
    weight = torch.randn(n_outputs, n_inputs, generator=generator).half()
    x = torch.randn(rows, n_inputs, generator=generator).to(torch.float16 if half else torch.float32)
    y = torch.full((rows, n_outputs), torch.nan)
    layer = _native.linear(
        name, weight, torch.ones(n_outputs), torch.zeros(n_outputs), False, half, False,
        routine=f"product_{precision}",
    )  # fmt: skip
    layer.run(x, y)
    w = weight.to(dtype).double()
    a = x.to(dtype).double() if precision == "bf16" else x.double()
    magnitude = a.abs() @ w.abs().T
    bound = routine_bound(magnitude, products * n_inputs + 2, half_output=False) + left_out * magnitude
    assert (y.double() - a @ w.T).abs().le(bound).all()


@pytest.mark.parametrize(
    ("n_channels", "n_outputs", "groups"),
    [(3, 5, 1), (1, 16, 1), (16, 33, 1), (24, 24, 2), (32, 32, 4), (64, 64, 8), (64, 64, 32), (34, 68, 17)],
)
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [((7, 7), (3, 3), (1, 1), (1, 1)), ((19, 35), (3, 3), (2, 2), (1, 0)), ((5, 40), (1, 3), (1, 2), (0, 1)),
     ((20, 6), (5, 2), (1, 1), (2, 1)), ((1, 1), (3, 3), (1, 1), (1, 1)), ((7, 29), (1, 1), (2, 2), (0, 0))],
)  # fmt: skip
@pytest.mark.parametrize(("name", "precision"), PAIRED)
def test_convolutions_of_awkward_sizes_and_groups_in_pairs(
    name, precision, size, kernel, stride, padding, n_channels, n_outputs, groups, generator
):
    dtype, products, left_out = PRECISIONS[precision]
    weight = torch.randn(n_outputs, n_channels // groups, *kernel, generator=generator).half()
    x = torch.randn(3, n_channels, *size, generator=generator).half()
    layer = _native.convolution(
        name, weight.permute(0, 2, 3, 1).reshape(n_outputs, -1).contiguous(), torch.ones(n_outputs),
        torch.zeros(n_outputs), False, True, False, image=(n_channels, *size), kernel=kernel, stride=stride,
        padding=padding, dilation=(1, 1), groups=groups, routine=f"direct_{precision}",
    )  # fmt: skip
    a, w = x.to(dtype).double(), weight.to(dtype).double()
    exact = functional.conv2d(a, w, None, stride, padding, 1, groups).permute(0, 2, 3, 1)
    magnitude = functional.conv2d(a.abs(), w.abs(), None, stride, padding, 1, groups).permute(0, 2, 3, 1)
    y = torch.full(exact.shape, torch.nan)
    layer.run(x.permute(0, 2, 3, 1).contiguous(), y)
    n_inputs = products * w[0].numel() * groups  # those of joined groups are zeros, which add nothing
    bound = routine_bound(magnitude, n_inputs, half_output=False) + left_out * magnitude
    assert (y.double() - exact).abs().le(bound).all()


@pytest.mark.parametrize(
    "activation", [("", 0.0, 0.0), ("clip", -0.25, 0.5), ("silu", 0.0, 0.0)], ids=["none", "clip", "silu"]
)
@pytest.mark.parametrize("half_output", [True, False])
@pytest.mark.parametrize("residual", ["none", "float16", "float32"])
@pytest.mark.parametrize(("name", "precision"), PAIRED)
def test_what_follows_products_in_pairs_is_what_follows_those_of_binary32(
    name, precision, residual, half_output, activation, generator
):
    """The sums are integers, exact in every precision; 3 x 21 pixels take tiles that reach beyond the ends of rows."""
    n_channels, n_outputs, size = 6, 37, (3, 21)
    weight = torch.randint(-2, 3, (n_outputs, 9 * n_channels), generator=generator).half()
    scale = 2.0 ** torch.randint(-9, -6, (n_outputs,), generator=generator).float()
    bias = torch.randn(n_outputs, generator=generator)
    x = torch.randint(-3, 4, (2, *size, n_channels), generator=generator).half()
    added = torch.randn(2, *size, n_outputs, generator=generator)
    added = added.half() if residual == "float16" else added
    found = {}
    for routine in ("direct", f"direct_{precision}"):
        layer = _native.convolution(
            name, weight, scale, bias, False, True, half_output, image=(n_channels, *size), kernel=(3, 3),
            stride=(1, 1), padding=(1, 1), dilation=(1, 1), residual=residual, routine=routine, function=activation,
        )  # fmt: skip
        found[routine] = torch.empty(
            2, *size, n_outputs, dtype=torch.float16 if half_output else torch.float32
        )
        layer.run(x, found[routine], None if residual == "none" else added)
    assert torch.equal(found["direct"], found[f"direct_{precision}"])


@pytest.mark.parametrize(("name", "precision"), PAIRED)
def test_what_is_too_large_is_counted_once_wherever_its_tile_lies(name, precision, generator):
    n_channels, n_outputs, size = 16, 40, (7, 7)
    x = (torch.rand(3, *size, n_channels, generator=generator) + 0.5).half()
    weight = torch.ones(n_outputs, n_channels).half()
    weight[::3] = 2.0**14
    for stride in (1, 2):
        layer = _native.convolution(
            name, weight, torch.ones(n_outputs), torch.zeros(n_outputs), True, True, True, image=(n_channels, *size),
            kernel=(1, 1), stride=(stride, stride), padding=(0, 0), dilation=(1, 1), routine=f"direct_{precision}",
        )  # fmt: skip
        y = torch.empty(3, *(4, 4) if stride == 2 else size, n_outputs, dtype=torch.float16)
        assert layer.run(x, y) == y.eq(65504).sum() == y[..., ::3].numel()
