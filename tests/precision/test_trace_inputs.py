"""What a network does with its inputs beyond what one run on one sample shows, against the module in float64."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.precision import HalfNetwork


class Around(nn.Module):
    """A convolution, and a function of its result and its input."""

    def __init__(self, function):
        super().__init__()
        self.body, self.function = nn.Conv2d(3, 3, 1), function

    def forward(self, x):
        return self.function(self.body(x), x)


class Normalized(nn.Module):
    def forward(self, x):
        return functional.normalize(x, dim=1)


class RootMeanSquare(nn.Module):
    def forward(self, x):
        return x / (x * x).mean(1, keepdim=True).sqrt()


def converted_error(module, x, inputs):
    network = HalfNetwork.convert(module, x)
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(inputs.double())
    return ((network(inputs) - exact).norm() / exact.norm()).item()


MIXING = {
    "softmax": lambda y, _: y.softmax(0),
    "mean": lambda y, x: y + x.mean(0, keepdim=True),
    "flip": lambda y, _: y.flip(0),
    "roll": lambda y, _: y.roll(1, 0),
    "first": lambda y, _: y[:1],
    "size": lambda y, x: y * len(x),
    "together": lambda y, _: y.reshape(1, -1)[:, :10],
}


@pytest.mark.parametrize("samples", [1, 4], ids=["one sample", "four equal samples"])
@pytest.mark.parametrize("function", MIXING.values(), ids=MIXING)
def test_a_network_that_mixes_the_inputs_of_a_batch_is_refused(function, samples, generator):
    x = torch.randn(1, 3, 6, 6, generator=generator).expand(samples, -1, -1, -1)
    with pytest.raises(ConfigError, match="the network may mix the inputs of a batch"):
        HalfNetwork.convert(Around(function), x)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_a_conversion_to_whole_numbers_is_refused_though_samples_are_whole(dtype, generator):
    x = torch.randint(0, 2, (4, 3, 6, 6), generator=generator).float()

    def written(y, _):
        return torch.zeros(y.shape, dtype=dtype).copy_(y).to(y.dtype)

    for module in (Around(lambda y, x: y + x.to(dtype).to(x.dtype)), Around(written)):
        with pytest.raises(
            ConfigError, match=f"conversion to {str(dtype).removeprefix('torch.')}, which cannot"
        ):
            HalfNetwork.convert(module, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_conversion_to_another_type_of_fractions_is_the_plans_to_make(dtype, generator):
    x = torch.randn(4, 3, 6, 6, generator=generator)
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten())
    converting = Around(lambda y, x: y + x.to(dtype).to(x.dtype))
    network = HalfNetwork.convert(converting, x)
    with torch.no_grad():
        exact = converting.body.double()(x.double()) + x.double()
    assert (network(x) - exact).norm() / exact.norm() < 2e-3
    assert converted_error(module, x, x) < 2e-3


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(5, 3), (7, 5)),
        (nn.Linear(6, 4), (1, 5, 6)),
        (nn.Linear(6, 4), (2, 5, 6)),
        (nn.LayerNorm(6), (1, 5, 6)),
        (nn.LayerNorm(5), (7, 5)),
        (nn.Softmax(2), (7, 5)),
        (nn.Conv1d(7, 2, 3), (7, 5)),
    ],
    ids=str,
)
def test_a_first_layer_may_read_the_input_in_another_shape(module, shape, generator):
    x = torch.randn(9, *shape, generator=generator)
    both = nn.Sequential(module, nn.Flatten())
    assert converted_error(both, x[:2], x) < 2e-3
    with pytest.raises(ValueError, match=r"inputs must have shape \(n, "):
        HalfNetwork.convert(both, x)(x.transpose(1, 2)[:, :1])


def test_the_input_may_be_read_twice_where_the_first_layer_reads_it_in_another_shape(generator):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(5, 5)

        def forward(self, x):
            return (self.body(x) + x).flatten(1)

    x = torch.randn(9, 7, 5, generator=generator)
    assert converted_error(Residual(), x[:2], x) < 2e-3


def test_a_padding_leaves_the_zeros_of_one_before_it(generator):
    def twice(y, _):
        return functional.pad(functional.pad(y, (1, 2, 0, 1)), (1, 0, 2, -1), value=3.0)

    x = torch.randn(4, 3, 6, 6, generator=generator)
    assert converted_error(Around(twice), x, x) < 2e-3


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_squares_have_the_range_of_binary32(scale, generator):
    """Calibrated with numbers around 1, whose squares binary16 would hold."""
    x = torch.randn(64, 6, 5, 5, generator=generator)
    for last in (Normalized(), RootMeanSquare()):
        module = nn.Sequential(nn.Conv2d(6, 6, 1, bias=False), last)
        assert converted_error(module, x[:8], x * scale) < 5e-3


def test_inputs_that_are_not_dense_real_numbers_are_refused(mlp):
    module, x = mlp
    network = HalfNetwork.convert(module, x)
    for nonsense in (x.to(torch.complex64), x.to_sparse()):
        with pytest.raises(TypeError, match="inputs must be dense real numbers, found"):
            network(nonsense)
        with pytest.raises(TypeError, match="calibration set must be dense real numbers"):
            HalfNetwork.convert(module, nonsense)
    with pytest.raises(ConfigError, match="numbers beyond float32"):
        HalfNetwork.convert(module, x.double() * 1e300)


def test_numbers_whose_sign_torch_has_yet_to_turn_are_read_with_it(mlp):
    module, x = mlp
    network = HalfNetwork.convert(module, x)
    assert torch.equal(network(torch._neg_view(x)), network(-x))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Around(lambda y, _: torch.native_layer_norm(y, [6], None, None, 1e-5)[1]), "a second result, which"),
        (Around(lambda y, _: functional.pad(y, (-3, -3))), "gives no numbers"),
        (Around(lambda y, _: y * torch.ones(2, 1, 1, 1).double()), r"gives shape \(2, 3, 6, 6\) for one input"),
        (Around(lambda y, _: (y * 0).log()), "gives NaN or infinity for inputs of its calibration set"),
    ],
)  # fmt: skip
def test_what_no_layer_can_give_is_refused_in_one_line(module, words, generator):
    with pytest.raises(ConfigError, match=words):
        HalfNetwork.convert(module, torch.randn(1, 3, 6, 6, generator=generator))


@pytest.mark.parametrize("masked", ["causal", "truth values", "infinities"])
def test_attention_may_be_masked(masked, generator):
    """Attention among the rows of each channel, some of which a mask hides."""
    visible = torch.eye(6).bool() | (torch.rand(6, 6, generator=generator) > 0.5)
    masks = {
        "causal": None,
        "truth values": visible,
        "infinities": torch.zeros(6, 6).double().masked_fill(~visible, -torch.inf),
    }

    def attended(y, x):
        return functional.scaled_dot_product_attention(
            y, x, x, attn_mask=masks[masked], is_causal=masked == "causal"
        )

    x = torch.randn(8, 3, 6, 6, generator=generator)
    assert converted_error(Around(attended), x[:4], x) < 2e-3


VISIBLE = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) > 0.4
CHOOSING = {
    "masked": lambda y, x: y.masked_fill(~VISIBLE, 0.5),
    "masked by a tensor": lambda y, x: (y @ x).masked_fill(VISIBLE, torch.tensor(-2.0)),
    "masked before softmax": lambda y, x: y.masked_fill(~(VISIBLE | torch.eye(6).bool()), -torch.inf).softmax(
        -1
    ),
    "masked by channel": lambda y, x: y.masked_fill(torch.tensor([True, False, True]).view(3, 1, 1), 1.0),
    "this or that": lambda y, x: torch.where(VISIBLE, y, x),
    "this or itself": lambda y, x: torch.where(VISIBLE, y, y * 2),
    "this or a number": lambda y, x: torch.where(VISIBLE, y, 3.0),
    "a number or this": lambda y, x: torch.where(VISIBLE, torch.ones(6).double(), y),
    "this or its mean": lambda y, x: torch.where(VISIBLE, y, x.mean((2, 3), keepdim=True)),
    "all": lambda y, x: torch.where(torch.tensor(True), y, x),
    "written in place": lambda y, x: y.clone().masked_fill_(VISIBLE, 0.25),
}


@pytest.mark.parametrize("function", CHOOSING.values(), ids=CHOOSING)
def test_a_choice_by_constants_is_computed(function, generator):
    x = torch.randn(8, 3, 6, 6, generator=generator)
    assert converted_error(Around(function), x[:4], x) < 2e-3


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_module_without_operators_of_its_own_is_refused(generator):
    x = torch.randn(2, 3, 6, 6, generator=generator)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    for compiled in (torch.jit.script(module), nn.Sequential(torch.jit.trace(module, x), nn.Flatten())):
        with pytest.raises(ConfigError, match="the network is compiled by TorchScript"):
            HalfNetwork.convert(compiled, x)
    with pytest.raises(ConfigError, match=r"parameter '0.weight' has no shape as yet; run the network once"):
        HalfNetwork.convert(nn.Sequential(nn.LazyConv2d(4, 3)), x)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec:FutureWarning")
def test_a_program_that_was_exported_in_training_mode_is_refused_in_words(generator):
    x = torch.randn(4, 3, 6, 6, generator=generator)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    with pytest.raises(ConfigError, match=r"statistics of the batch; .* call eval\(\) before an export"):
        HalfNetwork.convert(torch.export.export(module.train(), (x[:1],)), x)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0, 1e3])
def test_logarithms_of_softmax_reach_below_what_softmax_can_be(scale, dim, generator):
    x = scale * torch.randn(8, 3, 6, 6, generator=generator)
    assert converted_error(Around(lambda y, x: x.log_softmax(dim)), x[:4], x) < 2e-3
    rows = nn.Sequential(nn.Flatten(), nn.Linear(108, 5), nn.LogSoftmax(1))
    assert converted_error(rows, x[:4], x) < 2e-3


class Elementwise(nn.Module):
    """A function of every number of its input, before anything else."""

    def __init__(self, function, n):
        super().__init__()
        self.function, self.head = function, nn.Linear(n, 3)

    def forward(self, x):
        return self.head(self.function(x).flatten(1))


@pytest.mark.parametrize("shape", [(5,), (5, 7), (3, 5, 7), (2, 3, 4, 5)])
@pytest.mark.parametrize(
    "function",
    [
        torch.relu,
        torch.sigmoid,
        lambda x: x * torch.sigmoid(x),
        lambda x: x + x.flip(-1),
        lambda x: x * torch.where(torch.arange(x.shape[-1]) > 2, x, torch.zeros(())),
    ],
)
def test_inputs_of_any_number_of_dimensions_may_be_read_number_by_number(shape, function, generator):
    torch.manual_seed(0)
    module = Elementwise(function, math.prod(shape)).eval()
    x = torch.randn(4, *shape, generator=generator)
    network = HalfNetwork.convert(module, x)
    with torch.no_grad():
        wanted = module.double()(x.double())
    assert (network(x) - wanted).norm() < 2e-3 * wanted.norm()
    assert all(error.relative_error < 2e-3 for error in network.layer_errors(x))
