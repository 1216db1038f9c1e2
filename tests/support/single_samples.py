"""The Kronecker factors of linear layers, from passes of single samples by plain hooks: an oracle without our code."""

import copy

import torch
from torch import nn
from torch.nn import functional

from pipeline.training import KFAC, KFACSettings

ALL = KFACSettings(
    factor_interval=1, inverse_interval=1, factor_decay=0.0, sample_fraction=1.0, kl_clip=0.0, damping=0.05
)


class Network(nn.Module):
    """Three linear layers."""

    def __init__(self, n_classes=4):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, n_classes)

    def forward(self, x):
        return self.c(self.b(self.a(x).tanh()).tanh())


def drawn(model):
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model.double()


def batch(n=12, n_classes=4):
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(n, 5, generator=rng, dtype=torch.float64)
    return x, torch.randint(n_classes, (n,), generator=rng)


def expected_factors(model, losses):
    """Factors by path, as K-FAC's state names them: A a mean over uses, G a sum over uses and a mean over samples.

    Args:
        model: A network with linear layers.
        losses: A function that computes the loss of each sample with the network.
    """
    model = copy.deepcopy(model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    inputs, G = {name: [] for name in layers}, dict.fromkeys(layers, 0.0)
    for loss_of in losses:
        calls: list = []
        handles = [
            layer.register_forward_hook(lambda _, x, y, name=name, to=calls: to.append((name, x[0], y)))
            for name, layer in layers.items()
        ]
        loss = loss_of(model)
        for handle in handles:
            handle.remove()
        gradients = torch.autograd.grad(loss, [y for _, _, y in calls])
        for (name, x, _), gradient in zip(calls, gradients, strict=True):
            rows = x.detach().reshape(-1, x.shape[-1])
            ones = [torch.ones(len(rows), 1).double()] if layers[name].bias is not None else []
            inputs[name].append(torch.cat([rows, *ones], dim=1))
            rows = gradient.reshape(-1, gradient.shape[-1])
            G[name] = G[name] + rows.T @ rows
    found = {}
    for name in layers:
        rows = torch.cat(inputs[name])
        found[f"factor/A/{name}"] = rows.T @ rows / len(rows)
        found[f"factor/G/{name}"] = G[name] / len(losses)
    return found


def cross_entropies(x, y):
    """The losses of single samples, for `expected_factors`."""
    return [
        lambda model, i=i: functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]) for i in range(len(x))
    ]


def require_factors(kfac: KFAC, expected):
    tensors = kfac.state_dict()["tensors"]
    for path, matrix in expected.items():
        torch.testing.assert_close(tensors[path], matrix, rtol=1e-9, atol=1e-12)
