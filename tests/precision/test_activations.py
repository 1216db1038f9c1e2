"""Native layers between activations: functions, products, gathers, normalizations, softmax; padding and epilogues."""

import itertools

import pytest
import torch
from torch.nn import functional

from pipeline.precision import _native
from pipeline.precision.error import TINY_HALF, UNIT_HALF
from pipeline.precision.plan import FUNCTIONS
from pipeline.precision.reference import FUNCTIONS as DEFINITIONS

SIZES = [1, 3, 7, 8, 15, 16, 17, 31, 33, 97]
CONSTANTS = {"clip": (-0.5, 0.75), "leaky_relu": (0.2,), "elu": (1.3,)}
POSITIVE = {"log", "sqrt", "reciprocal"}
# The exponential is off by 2e-7 of itself, erf by 1.5e-7; a few more operations of binary32 follow.
SINGLE = 2e-6
DTYPES = pytest.mark.parametrize(("given", "stored"), [(a, b) for a in (True, False) for b in (True, False)])


def named(function):
    return (function, *CONSTANTS.get(function, ()), 0.0, 0.0)[:3]


def numbers(shape, half, generator):
    x = 3 * torch.randn(shape, generator=generator)
    return x.half() if half else x


def run(layer, x, half, other=None):
    y = torch.full((len(x), layer.output_size), 7.0).to(torch.float16 if half else torch.float32)
    assert layer.run(x, y, other) == 0
    return y


def close(found, wanted, half, relative=SINGLE):
    """Within so much of what binary32 makes of it, and half a unit of binary16 where it is stored as such."""
    bound = relative * (1 + wanted.abs()) + (UNIT_HALF * wanted.abs() + TINY_HALF if half else 0.0)
    assert bool(((found.double() - wanted).abs() <= 1.01 * bound).all()), tuple(wanted.shape)


def test_every_function_has_a_definition():
    assert set(FUNCTIONS) == set(DEFINITIONS)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_is_what_it_is_in_float64(function, instruction_set, generator):
    for given, stored, n in itertools.product((True, False), (True, False), SIZES):
        x = numbers((2, n), given, generator)
        x = x.abs() + 0.5 if function in POSITIVE else x.clamp(-8, 8)
        layer = _native.map(instruction_set, n, given, stored, function=named(function))
        close(run(layer, x, stored), DEFINITIONS[function](*CONSTANTS.get(function, ()))(x.double()), stored)


@pytest.mark.parametrize("function", sorted(set(FUNCTIONS) - POSITIVE - {"exp", "square"}))
def test_a_function_stays_itself_far_out_and_passes_not_a_number_on(function, instruction_set):
    x = torch.tensor([[-3e4, -200.0, -40.0, 0.0, 40.0, 200.0, 3e4, float("nan")]])
    layer = _native.map(instruction_set, 8, False, False, function=named(function))
    found = run(layer, x, False)
    wanted = DEFINITIONS[function](*CONSTANTS.get(function, ()))(x.double())
    assert found[0, -1].isnan()
    close(found[:, :-1], wanted[:, :-1], False)


def test_an_unknown_function_is_refused(instruction_set):
    with pytest.raises(ValueError, match="there is no function 'guess'"):
        _native.map(instruction_set, 4, False, False, function=("guess", 0.0, 0.0))


@DTYPES
@pytest.mark.parametrize("function", ["clip", "hard_swish", "silu", "gelu"])
def test_an_epilogue_ends_with_a_function(function, given, stored, instruction_set, generator):
    weight, ones, zeros = torch.eye(33), torch.ones(33), torch.zeros(33)
    x, other = (numbers((3, 33), half, generator) for half in (given, True))
    definition = DEFINITIONS[function](*CONSTANTS.get(function, ()))
    layer = _native.linear(
        instruction_set, weight, ones, zeros, False, given, stored, "float16", function=named(function)
    )
    close(run(layer, x, stored, other), definition(x.double() + other.double()), stored)
    layer = _native.addition(instruction_set, 33, False, given, stored, "float16", function=named(function))
    close(run(layer, x, stored, other), definition(x.double() + other.double()), stored)


@DTYPES
def test_products_and_scalings(given, stored, instruction_set, generator):
    for n in SIZES:
        x, other = (numbers((2, 5 * n), half, generator) for half in (given, not given))
        residual = str(other.dtype).removeprefix("torch.")
        layer = _native.map(instruction_set, 5 * n, given, stored, residual)
        close(run(layer, x, stored, other), x.double() * other.double(), stored)
        factors = other[:, :n].contiguous()
        layer = _native.scale(instruction_set, n, 5, given, stored, residual)
        wanted = x.double().view(2, 5, n) * factors.double().view(2, 1, n)
        close(run(layer, x, stored, factors), wanted.flatten(1), stored)


@DTYPES
def test_numbers_are_found_where_the_index_says(given, stored, instruction_set, generator):
    for n in SIZES:
        x, other = (numbers((3, size), half, generator) for size, half in ((n, given), (n + 2, stored)))
        both = torch.cat([x.double(), other.double(), torch.zeros(3, 1).double()], 1)
        indices = [
            torch.randint(-1, 2 * n + 2, (4 * n + 1,), generator=generator),
            torch.arange(2 * n + 2).flip(0),
            torch.arange(2 * n + 2).view(2, n + 1).T.flatten(),
            torch.full((n,), -1),
            torch.arange(n, 2 * n + 2),
        ]
        for index in indices:
            residual = str(other.dtype).removeprefix("torch.")
            layer = _native.gather(instruction_set, index.int(), n, n + 2, given, stored, residual)
            close(run(layer, x, stored, other), both[:, index], stored, 0.0)


def test_places_outside_are_refused(instruction_set):
    for place in (-2, 5):
        with pytest.raises(ValueError, match=f"the place {place} lies outside of 5 numbers"):
            _native.gather(instruction_set, torch.tensor([0, place]).int(), 5, 0, False, False)


@DTYPES
def test_rows_are_normalized(given, stored, instruction_set, generator):
    for width in [*SIZES, 1100]:
        x = numbers((2, 3 * width), given, generator)
        weight, bias = torch.randn(2, width, generator=generator)
        layer = _native.normalization(instruction_set, weight, bias, 3, 1e-2, given, stored)
        rows = x.double().view(2, 3, width)
        wanted = functional.layer_norm(rows, (width,), weight.double(), bias.double(), 1e-2)
        # Differences from the mean are rounded relative to the row's numbers,
        # of which none exceeds 5 deviations by much.
        close(run(layer, x, stored), wanted.flatten(1), stored, 10 * SINGLE)


@DTYPES
def test_rows_become_probabilities(given, stored, instruction_set, generator):
    for width in SIZES:
        x = numbers((2, 3 * width), given, generator)
        layer = _native.softmax(instruction_set, width, 3, given, stored)
        wanted = x.double().view(2, 3, width).softmax(-1)
        close(run(layer, x, stored), wanted.flatten(1), stored)


def test_a_softmax_of_large_numbers_does_not_overflow(instruction_set):
    x = torch.tensor([[1e30, -1e30, 6e4, 1e30]])
    found = run(_native.softmax(instruction_set, 4, 1, False, False), x, False)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.0, 0.0, 0.5]]))


@DTYPES
@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_are_multiplied_where_they_lie(transposed, given, stored, instruction_set, generator):
    """Two heads of attention side by side in rows of three parts."""
    for rows, inner, columns in [(1, 1, 1), (7, 5, 17), (15, 33, 16), (33, 16, 97), (3, 1100, 2)]:
        heads, parts = 2, 3
        a = numbers((2, rows, parts, heads, inner), given, generator)
        shape = (2, columns, heads, inner) if transposed else (2, inner, heads, columns)
        b = numbers(shape, stored, generator)
        width = heads * inner
        strides = (1, width) if transposed else (heads * columns, 1)
        layer = _native.product(
            instruction_set, (rows, inner, columns), [width, width + inner], (parts * width, 1),
            [0, inner if transposed else columns], strides, 0.25, a[0].numel(), b[0].numel(), given, stored,
            str(b.dtype).removeprefix("torch."),
        )  # fmt: skip
        left = a.double()[:, :, 1].transpose(1, 2)
        right = b.double().permute(0, 2, 3, 1) if transposed else b.double().transpose(1, 2)
        found = run(layer, a.flatten(1), stored, b.flatten(1))
        wanted, magnitude = (0.25 * left @ right).flatten(1), (0.25 * left.abs() @ right.abs()).flatten(1)
        bound = (inner + 2) * 2.0**-24 * magnitude + (UNIT_HALF * wanted.abs() + TINY_HALF if stored else 0.0)
        assert bool(((found.double() - wanted).abs() <= 1.01 * bound).all())


def test_matrices_outside_are_refused(instruction_set):
    with pytest.raises(ValueError, match="a matrix lies outside of what is read"):
        _native.product(
            instruction_set, (2, 3, 2), [1], (3, 1), [0], (2, 1), 1.0, 6, 6, False, False, "float32"
        )


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 34])
def test_an_image_may_be_padded_unevenly(half, groups, instruction_set, generator):
    dtype = torch.float16 if half else torch.float32
    weight = torch.randn(34, 34 // groups, 3, 3, generator=generator).to(dtype)
    x = torch.randn(2, 34, 6, 5, generator=generator).to(dtype)
    arguments = {"kernel": (3, 3), "stride": (1, 1), "dilation": (1, 1), "groups": groups}
    routines = _native.convolution_routines(instruction_set, *arguments.values(), 34, 34)
    padded = functional.pad(x.double(), (0, 2, 1, 0))
    wanted = functional.conv2d(padded, weight.double(), groups=groups)
    magnitude = functional.conv2d(padded.abs(), weight.double().abs(), groups=groups)
    for routine in routines:
        layer = _native.convolution(
            instruction_set, weight.permute(0, 2, 3, 1).flatten(1).contiguous(), torch.ones(34), torch.zeros(34), False,
            half, False, image=(34, 6, 5), padding=(1, 0, 0, 2), routine=routine, **arguments,
        )  # fmt: skip
        flat = x.permute(0, 2, 3, 1).flatten(1).contiguous()
        found = run(layer, flat, False).view(2, *wanted.shape[2:], 34).permute(0, 3, 1, 2)
        # Rounding to 8 or 11 bits, of weights that are transformed too; a number in another place is off by far more.
        unit = (
            2.0**-8 if routine.endswith("bf16") else 2.0**-11 if half and "winograd" in routine else 2.0**-18
        )
        limit = 4 * unit
        assert bool(((found.double() - wanted).abs() <= limit * magnitude.amax()).all()), routine


def test_a_mean_may_count_its_padding(instruction_set):
    x = torch.arange(4.0).view(1, 4)
    bounds = {"row_start": [0, 0], "row_end": [1, 2], "column_start": [0], "column_end": [2]}
    layer = _native.pooling(
        instruction_set,
        (1, 2, 2),
        **bounds,
        average=True,
        relu=False,
        half_input=False,
        half_output=False,
        divisor=4.0,
    )
    assert run(layer, x, False).tolist() == [[0.25, 1.5]]


@pytest.mark.parametrize(
    "function", ["exp", "erf", "sigmoid", "silu", "gelu", "gelu_tanh", "tanh", "hard_swish", "elu"]
)
def test_the_ends_of_binary32_are_those_of_torch(function, instruction_set):
    x = torch.tensor([[-1e38, -1e30, -104.0, -87.0, 87.0, 88.5, 88.72, 88.73, 104.0, 1e30]])
    if function in ("exp", "erf", "sigmoid", "tanh"):
        x = torch.cat([x, torch.tensor([[-float("inf"), float("inf")]])], dim=1)
    layer = _native.map(instruction_set, x.shape[1], False, False, function=named(function))
    wanted = DEFINITIONS[function](*CONSTANTS.get(function, ()))(x)
    torch.testing.assert_close(run(layer, x, False), wanted, rtol=1e-5, atol=1e-30)
