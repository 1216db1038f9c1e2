"""A small network and batches, for programs with training loops of their own."""

import torch
from torch import nn


def network():
    """Two layers, with the same weights every time."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model


def batch(step):
    """Ten samples and their classes, different at every step."""
    rng = torch.Generator().manual_seed(step)
    return torch.randn(10, 4, generator=rng), torch.randint(3, (10,), generator=rng)


def weights(model):
    """All parameters as one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])
