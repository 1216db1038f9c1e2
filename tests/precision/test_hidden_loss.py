"""Outputs and activations that hardly vary beside what all samples share; the oracle is torch in float64."""

import re
import warnings

import pytest
import torch
from torch import nn

from pipeline.precision import Budget, HalfNetwork
from pipeline.precision.verification import LOST, verify


class Shifted(nn.Module):
    """Features beside a large constant, which is taken away again or not."""

    def __init__(self, constant, *, back):
        super().__init__()
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 5)
        self.constant, self.back = constant, back

    def forward(self, x):
        x = torch.relu(torch.tanh(self.first(x)) + self.constant)
        return self.last(x - self.constant if self.back else x)


class Difference(nn.Module):
    """One output varies by much less than the others."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 32)

    def forward(self, x):
        scales = torch.tensor([1e-3] + [1.0] * 31)
        return torch.relu(self.first(x) * scales + 2.0) + 1.0


def varying_errors(module, found, x):
    """The error of each output, relative to what varies of it."""
    with torch.no_grad():
        exact = module.double()(x.double())
    module.float()
    return (found - exact).norm(dim=0) / (exact - exact.mean(dim=0)).norm(dim=0)


HIDDEN = {
    "activations beside a constant": lambda: Shifted(1e4, back=False),
    "inputs beside a constant": lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)),
    "one output of many": Difference,
}


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("measured", [False, True])
def test_an_error_that_the_size_of_outputs_hides_is_warned_of_with_a_budget_that_helps(
    name, measured, generator
):
    torch.manual_seed(0)
    module, x = HIDDEN[name]().eval(), torch.randn(64, 16, generator=generator)
    if name.startswith("inputs"):
        x = 0.01 * x + 300.0
    with pytest.warns(
        UserWarning, match=r"outputs have errors that are large relative to their variation"
    ) as told:
        network = HalfNetwork.convert(module, x)
    errors = varying_errors(module, network(x), x)
    (text,) = [str(one.message) for one in told]
    assert told[0].filename == __file__
    n_lost, percent = re.match(r"(\d+) of .* errs by (\d+)%", text).groups()
    assert int(n_lost) == int((errors > LOST).sum()) > 0
    assert int(percent) / 100 == pytest.approx(errors.max().item(), rel=0.05)
    if measured:
        with pytest.warns(UserWarning, match="outputs have errors that are large") as told:
            network.choose_routines(x, batch=1)
        assert told[0].filename == __file__
        return
    budget = Budget(output_error=float(re.search(r"output_error=([\d.e-]+)\)", text)[1]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the network stays at float32 altogether")
        network = HalfNetwork.convert(module, x, budget=budget)
    assert varying_errors(module, network(x), x).max() < LOST


@pytest.mark.parametrize("constant", [0.0, 10.0, 300.0, 1e4])
def test_activations_whose_rounding_would_hide_what_tells_samples_apart_are_stored_as_float32(
    constant, generator
):
    torch.manual_seed(0)
    module, x = Shifted(constant, back=True).eval(), torch.randn(64, 16, generator=generator)
    network = HalfNetwork.convert(module, x)
    assert varying_errors(module, network(x), x).max() < 0.02
    assert all(layer.weight_dtype == "float16" for layer in network.layers if layer.has_weights)
    wide = [layer.name for layer in network.layers[:-1] if layer.output_dtype == "float32"]
    assert len(wide) == (constant >= 300.0)


@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_a_few_samples_tell_of_all_outputs_together_and_one_tells_nothing(n, generator):
    exact = 1000.0 + torch.randn(n, 5, generator=generator, dtype=torch.float64)
    hidden = verify(exact + 0.5 * torch.randn(n, 5, generator=generator), exact, None).hidden
    if n == 1:
        assert hidden is None
        return
    assert (hidden.channel is None) == (n < 8)
    assert (hidden.n_lost, hidden.n_outputs) == (5, 5)
    assert hidden.varying == pytest.approx(1e-3, rel=0.5)


def test_outputs_that_do_not_vary_and_noise_of_float32_are_not_warned_of(generator):
    exact = torch.randn(64, 3, generator=generator, dtype=torch.float64)
    exact[:, 1] = 7.0
    exact[:, 2] = 1e3 + 1e-4 * exact[:, 2]
    assert verify(exact + 1e-3, exact, None).hidden is None


@pytest.mark.parametrize("n", [2, 9])
def test_the_same_sample_again_and_again_is_converted_in_silence(n, generator):
    torch.manual_seed(0)
    module, x = Shifted(10.0, back=False).eval(), torch.randn(1, 16, generator=generator).expand(n, 16)
    HalfNetwork.convert(module, x)  # warnings are errors
