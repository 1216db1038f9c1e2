import pytest
import torch
from torch import nn

from pipeline.models import build_model
from pipeline.training import Samples


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def blobs(n, seed=0, n_classes=3, shape=(1, 6, 6)):
    """Noisy pictures of one random pattern per class."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randn(n_classes, *shape, generator=generator)
    generator.manual_seed(100 + seed)
    labels = torch.randint(n_classes, (n,), generator=generator)
    return Samples(patterns[labels] + 1.5 * torch.randn(n, *shape, generator=generator), labels)


@pytest.fixture
def training():
    return blobs(53)


@pytest.fixture
def validation():
    return blobs(31, seed=1)


@pytest.fixture
def small_network():
    """A builder of equal small networks: convolutions (with batch normalization if asked), then linear
    layers."""

    def build(batch_norm=False, seed=0):
        return build_model(
            "cnn",
            input_shape=(1, 6, 6),
            n_classes=3,
            generator=torch.Generator().manual_seed(seed),
            channels=(3, 4),
            hidden=5,
            batch_norm=batch_norm,
        )

    return build


@pytest.fixture
def weights():
    """Flatten all that a network holds, counters included, into one float64 vector."""

    def flatten(model: nn.Module):
        return torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])

    return flatten
