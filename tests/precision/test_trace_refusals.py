"""Networks that cannot be converted: each is refused in one sentence that names the layer."""

import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.precision import HalfNetwork
from pipeline.precision.trace import check_trace, trace


class Overwritten(nn.Module):
    """An assignment to a part of what is read again as a whole."""

    def forward(self, x):
        y = x * 2
        y[:, 0] = 0
        return y


class Remembering(nn.Module):
    """Its result depends on how often it ran."""

    def __init__(self):
        super().__init__()
        self.body, self.n_runs = nn.Conv2d(4, 4, 1), 0

    def forward(self, x):
        self.n_runs += 1
        return self.body(x) * float(len(x))


def test_layers_that_compute_something_else_than_the_module_are_refused(generator):
    x = torch.randn(3, 4, 5, 5, generator=generator)
    with pytest.raises(ConfigError, match=r"differs from the network's by \S+ of its norm"):
        check_trace(Remembering(), *trace(Remembering(), x), x)
    with pytest.raises(ConfigError, match="differs from the network's"):
        HalfNetwork.convert(Remembering(), x)
    with pytest.raises(ConfigError, match="changes a tensor in place that it reads again"):
        trace(Overwritten(), x)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x), x


class Dependent(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("module", "shape", "words"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Softplus()), (4,), "'1' is a softplus, which cannot be converted"),
        (
            nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)),
            (1, 3, 3),
            "'1' is a normalization without running statistics",
        ),
        (nn.Sequential(nn.Flatten(0), nn.Linear(9, 3)), (1, 3, 3), r"gives shape .*; wanted \(n, numbers\)"),
        (nn.Sequential(nn.MaxPool2d(2, dilation=2)), (1, 5, 5), "'0' is a pooling with dilation"),
        (Two(), (4,), "gives a tuple; wanted one tensor"),
        (Dependent(), (4,), "asks a tensor for its value .* free of control flow over tensors"),
        (nn.Sequential(nn.Linear(4, 4)), (5,), r"does not take inputs of shape \(5,\)"),
        (
            nn.Sequential(nn.Linear(4, 4), nn.BatchNorm2d(4)),
            (4,),
            r"does not take inputs of shape \(4,\): expected 4D input",
        ),
        (nn.Sequential(nn.Dropout()), (4,), "no layer to convert"),
    ],
)
def test_what_cannot_be_converted_is_named(module, shape, words):
    with pytest.raises(ConfigError, match=words):
        trace(module, torch.randn(2, *shape))


class Refusing(nn.Module):
    """It says itself what is wrong."""

    def forward(self, x):
        raise ConfigError("layer 'body' needs other numbers; scale them first")


def test_what_a_module_refuses_itself_is_told_in_its_own_words():
    x = torch.randn(2, 4)
    layers, parameters = trace(nn.Sequential(nn.Linear(4, 4)), x)
    with pytest.raises(ConfigError, match=r"^layer 'body' needs other numbers; scale them first$"):
        check_trace(Refusing(), layers, parameters, x)
