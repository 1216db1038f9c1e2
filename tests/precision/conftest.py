"""The instruction sets this machine has, and networks to convert."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.precision.routines import instruction_sets


@pytest.fixture(params=instruction_sets())
def instruction_set(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(35, 33), nn.ReLU(), nn.Dropout(), nn.Linear(33, 7))


def _cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 17, 3, padding=1),
        nn.BatchNorm2d(17),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(17, 33, (3, 2), stride=(2, 1), padding=(1, 0), bias=False),
        nn.BatchNorm2d(33),
        nn.ReLU(),
        nn.Dropout2d(),
        nn.Flatten(),
        nn.Linear(33 * 3 * 5, 10),
    )


def _pooled() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, dilation=(1, 2)),
        nn.ReLU(),
        nn.AvgPool2d(3, stride=2, ceil_mode=True),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(16, 65, 1),
        nn.AdaptiveAvgPool2d((2, 1)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(130, 31),
        nn.BatchNorm1d(31),
        nn.Linear(31, 3),
    )


NETWORKS = {
    "mlp": (_mlp, (1, 7, 5)),
    "cnn": (_cnn, (3, 11, 13)),
    "pooled": (_pooled, (1, 17, 22)),
}


@pytest.fixture(params=sorted(NETWORKS))
def case(request: pytest.FixtureRequest, generator: torch.Generator) -> tuple[nn.Sequential, Tensor]:
    """A network with random parameters and statistics, in evaluation mode, and 70 inputs."""
    build, shape = NETWORKS[request.param]
    module = build().eval()
    randomize(module, generator)
    return module, torch.randn(70, *shape, generator=generator)


@pytest.fixture
def mlp(generator: torch.Generator) -> tuple[nn.Sequential, Tensor]:
    module = _mlp().eval()
    randomize(module, generator)
    return module, torch.randn(9, 1, 7, 5, generator=generator)


def randomize(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                fan_in = part.weight[0].numel()
                part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
            elif isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
                part.running_mean.copy_(torch.randn(part.num_features, generator=generator) * 0.3)
                part.running_var.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
                part.weight.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
                part.bias.copy_(torch.randn(part.num_features, generator=generator) * 0.1)
