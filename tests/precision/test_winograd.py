import itertools

import pytest
import torch
from torch.nn import functional

from pipeline.precision import _native
from pipeline.precision.routines import instruction_sets
from pipeline.precision.winograd import matrices, winograd_bound

MAPS = [(1, 1), (3, 3), (7, 7), (28, 28), (4, 9)]
CASES = [
    (isa, routine)
    for isa in instruction_sets()
    for routine in _native.convolution_routines(isa, (3, 3), (1, 1), (1, 1), 1, 4, 4)
    if routine.startswith("winograd")
]
each_routine = pytest.mark.parametrize(("instruction_set", "routine"), CASES)


def order_of(routine):
    """The m of F(m, 3)."""
    return int(routine.removeprefix("winograd")[0])


def storage_of(routine, dtype):
    """How the transformed weights lie in memory."""
    return "bf16" if routine.endswith("_bf16") else "fp16" if dtype == torch.float16 else "fp32"


@pytest.mark.parametrize("m", [2, 4])
def test_the_matrices_correlate_in_one_dimension(m, generator):
    at, g, bt = matrices(m)
    d, kernel = (torch.randn(n, generator=generator).double() for n in (m + 2, 3))
    exact = functional.conv1d(d.view(1, 1, -1), kernel.view(1, 1, -1)).flatten()
    torch.testing.assert_close(at @ ((g @ kernel) * (bt @ d)), exact, rtol=1e-13, atol=1e-13)


def winograd(
    isa, routine, weight, x, *, scale, bias, padding=(1, 1), relu=False, residual=None, half_output=None
):
    """Run the routine on torch's layouts; return the result in them and how many results were saturated."""
    n_outputs, n_channels = weight.shape[:2]
    half = x.dtype == torch.float16
    kind = {None: "none", torch.float16: "float16", torch.float32: "float32"}
    half_output = half if half_output is None else half_output
    layer = _native.convolution(
        isa, weight.permute(0, 2, 3, 1).reshape(n_outputs, -1).contiguous(), scale, bias, relu, half, half_output,
        image=(n_channels, *x.shape[2:]), kernel=(3, 3), stride=(1, 1), padding=padding, dilation=(1, 1),
        residual=kind[None if residual is None else residual.dtype], routine=routine,
    )  # fmt: skip
    rows, columns = (size + 2 * pad - 2 for size, pad in zip(x.shape[2:], padding, strict=True))
    y = torch.empty(len(x), rows, columns, n_outputs, dtype=torch.float16 if half_output else torch.float32)
    if residual is not None:
        residual = residual.permute(0, 2, 3, 1).contiguous()
    n_saturated = layer.run(x.permute(0, 2, 3, 1).contiguous(), y, residual)
    return y.permute(0, 3, 1, 2), n_saturated


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@each_routine
def test_a_winograd_convolution_is_within_its_bound(instruction_set, routine, dtype, generator):
    half = dtype == torch.float16
    sizes = zip([1, 17, 33, 16, 65], [1, 2, 5, 1, 2], MAPS, strict=True)
    for n_channels, (n_outputs, batch, size) in itertools.product([1, 3, 15, 16, 17, 33], sizes):
        weight = torch.randn(n_outputs, n_channels, 3, 3, generator=generator).to(dtype)
        scale = 2.0 ** torch.randint(-2, 3, (n_outputs,), generator=generator).float()
        bias = torch.randn(n_outputs, generator=generator)
        x = torch.randn(batch, n_channels, *size, generator=generator).to(dtype)
        y, n_saturated = winograd(instruction_set, routine, weight, x, scale=scale, bias=bias)
        assert n_saturated == 0
        scaled = weight.double() * scale.double().view(-1, 1, 1, 1)
        exact = functional.conv2d(x.double(), scaled, bias.double(), padding=1)
        added = bias.double().abs().view(-1, 1, 1)
        bound = winograd_bound(
            scaled, x, order_of(routine), added=added, weights=storage_of(routine, dtype), half_output=half
        )
        assert (y.double() - exact).abs().le(bound).all(), (n_channels, n_outputs, batch, size)


@pytest.mark.parametrize("padding", [(0, 0), (2, 1), (0, 3)])
@each_routine
def test_any_padding_a_residual_and_the_activation_are_taken_in(instruction_set, routine, padding, generator):
    weight = torch.randn(20, 18, 3, 3, generator=generator).half()
    x = torch.randn(2, 18, 6, 7, generator=generator).half()
    bias = torch.randn(20, generator=generator)
    exact = functional.conv2d(x.double(), weight.double(), bias.double(), padding=padding)
    for residual in (
        torch.randn(exact.shape, generator=generator),
        torch.randn(exact.shape, generator=generator).half(),
    ):
        y, _ = winograd(
            instruction_set, routine, weight, x, scale=torch.ones(20), bias=bias, padding=padding, relu=True,
            residual=residual, half_output=False,
        )  # fmt: skip
        added = bias.double().abs().view(-1, 1, 1) + residual.double().abs()
        bound = winograd_bound(
            weight, x, order_of(routine), padding, added=added, weights=storage_of(routine, weight.dtype),
            half_output=False,
        )  # fmt: skip
        assert (y.double() - (exact + residual.double()).relu()).abs().le(bound).all()


@pytest.mark.parametrize("exponent", [-24, 15])
@each_routine
def test_weights_at_either_end_of_the_range_keep_their_accuracy(
    instruction_set, routine, exponent, generator
):
    """Subnormal weights, and those whose transform would leave the range of binary16."""
    weight = (torch.randint(-1, 2, (5, 3, 3, 3), generator=generator) * 2.0**exponent).half()
    x = torch.randn(1, 3, 9, 9, generator=generator)
    back = torch.full((5,), 2.0**-exponent)
    y, _ = winograd(instruction_set, routine, weight, x, scale=back, bias=torch.zeros(5))
    scaled = weight.double() * 2.0**-exponent
    exact = functional.conv2d(x.double(), scaled, padding=1)
    stored = storage_of(routine, weight.dtype)
    bound = winograd_bound(scaled, x, order_of(routine), weights=stored, half_output=False)
    assert (y.double() - exact).abs().le(bound).all()


@each_routine
def test_not_a_number_reaches_what_it_belongs_to_and_saturation_is_counted(instruction_set, routine):
    x = torch.zeros(1, 2, 12, 12).half()
    x[0, 1, 5, 5] = float("nan")
    weight = torch.ones(3, 2, 3, 3).half()
    y, n_saturated = winograd(
        instruction_set, routine, weight, x, scale=torch.ones(3), bias=torch.zeros(3), relu=True
    )
    assert n_saturated == 0
    assert y[:, :, 4:7, 4:7].isnan().all()
    x = torch.full((1, 2, 8, 8), 6e4).half()
    y, n_saturated = winograd(instruction_set, routine, weight, x, scale=torch.ones(3), bias=torch.zeros(3))
    assert (n_saturated, y.eq(65504).all().item()) == (3 * 64, True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@each_routine
def test_what_is_not_finite_reaches_its_windows_and_at_most_the_tiles_that_read_it(
    instruction_set, routine, value, generator
):
    """The transforms subtract infinities from each other, so that they come out as NaN, beside their windows too."""
    for at in [(0, 0), (5, 5), (6, 7), (11, 3)]:
        m, half = order_of(routine), {"scale": torch.ones(5), "bias": torch.zeros(5), "half_output": False}
        weight = torch.rand(5, 4, 3, 3, generator=generator) + 0.5
        x = torch.randn(2, 4, 12, 12, generator=generator)
        wanted, _ = winograd(instruction_set, routine, weight, x, **half)
        x[1, 2, at[0], at[1]] = value
        y, _ = winograd(instruction_set, routine, weight, x, **half)
        windows, tiles = torch.zeros(2, 12, 12, dtype=torch.bool), torch.zeros(2, 12, 12, dtype=torch.bool)
        for i in range(12):
            for j in range(12):
                corner = i // m * m, j // m * m
                windows[1, i, j] = all(abs(a - b) <= 1 for a, b in zip((i, j), at, strict=True))
                tiles[1, i, j] = all(c - 1 <= a <= c + m for c, a in zip(corner, at, strict=True))
        finite = y.isfinite().all(dim=1)
        assert not finite[windows].any()
        assert torch.equal(y.permute(0, 2, 3, 1)[~tiles], wanted.permute(0, 2, 3, 1)[~tiles])
        saturated, _ = winograd(instruction_set, routine, weight, x, **half | {"half_output": True})
        assert not saturated.isinf().any()


def test_weights_that_are_not_finite_are_refused():
    weight = torch.full((1, 1, 3, 3), float("inf"))
    with pytest.raises(ValueError, match="finite weights only"):
        winograd(
            "portable", "winograd2", weight, torch.zeros(1, 1, 4, 4), scale=torch.ones(1), bias=torch.zeros(1)
        )


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups"),
    [
        ((3, 2), (1, 1), (1, 1), 1),
        ((3, 3), (2, 1), (1, 1), 1),
        ((3, 3), (1, 1), (1, 2), 1),
        ((3, 3), (1, 1), (1, 1), 2),
    ],
)
def test_other_geometries_are_neither_offered_nor_taken(instruction_set, kernel, stride, dilation, groups):
    assert not any(
        name.startswith("winograd")
        for name in _native.convolution_routines(instruction_set, kernel, stride, dilation, groups, 4, 4)
    )
    weight = torch.zeros(4, 4 // groups * kernel[0] * kernel[1])
    with pytest.raises(ValueError, match=r"'winograd4' does not do this convolution .* these do: direct"):
        _native.convolution(
            instruction_set, weight, torch.ones(4), torch.zeros(4), False, False, False, image=(4, 8, 8),
            kernel=kernel, stride=stride, padding=(0, 0), dilation=dilation, groups=groups, routine="winograd4",
        )  # fmt: skip


@pytest.mark.parametrize("m", [2, 4])
def test_the_products_are_counted(m):
    layer = _native.convolution(
        "portable", torch.ones(5, 27), torch.ones(5), torch.zeros(5), False, False, False, image=(3, 8, 8),
        kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), routine=f"winograd{m}",
    )  # fmt: skip
    assert layer.flops(2) == 2 * 2 * (8 // m) ** 2 * (m + 2) ** 2 * 3 * 5
    assert layer.weight_bytes >= 4 * (m + 2) ** 2 * 3 * 5
    assert f"F({m}x{m}, 3x3)" in layer.routine(2)
