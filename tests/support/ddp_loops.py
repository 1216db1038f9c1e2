"""Loops with DistributedDataParallel as users' programs have them, on two processes, each compared with one process.

The script is started by torchrun. Each process has one or more parts of a batch. The loss of a step is the mean over
all parts of the mean over each part's samples.
"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from pipeline.runtime.communicator import Serial
from pipeline.training import KFACOptimizer, KFACSettings, learning_rate_range_test

SETTINGS = KFACSettings(
    damping=1e-2, sample_fraction=1.0, factor_interval=2, inverse_interval=2, placement="replicate"
)
N_STEPS = 4
HALVES, UNEVEN = [slice(0, 6), slice(6, 12)], [slice(0, 9), slice(9, 12)]
QUARTERS = [slice(i, i + 3) for i in range(0, 12, 3)]


class Branches(nn.Module):
    """A network that uses only one of its two layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 7), nn.Linear(7, 7)
        self.c, self.d = nn.Linear(7, 7), nn.Linear(7, 3)
        for i, p in enumerate(self.parameters()):
            p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64) / 2

    def forward(self, x, second):
        hidden = self.a(x).tanh()
        return self.d((self.c if second else self.b)(hidden).tanh())


def batch(step, part):
    rng = torch.Generator().manual_seed(step)
    x, y = torch.randn(12, 5, generator=rng, dtype=torch.float64), torch.randint(3, (12,), generator=rng)
    return x[part], y[part]


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def train(model, own, parts, second, *, set_to_none=True, **options):
    """Train on some parts of each batch; a process exchanges gradients only with its last part."""
    optimizer = KFACOptimizer(model, lr=0.1, settings=SETTINGS, **options)
    for step in range(N_STEPS):
        optimizer.zero_grad(set_to_none)
        for number, i in enumerate(own):
            x, y = batch(step, parts[i])
            waits = isinstance(model, DistributedDataParallel) and number < len(own) - 1
            with model.no_sync() if waits else torch.enable_grad():
                (cross_entropy(model(x, second(step, i)), y) / len(own)).backward()
        optimizer.step()


def first(step, part):
    return False


def by_process(step, part):
    """Make each process use a different layer."""
    return (step + part) % 2 == 1


unused = {"find_unused_parameters": True}
LOOPS = {
    "a layer that is never used": (unused, HALVES, first, {}),
    "a layer that one process uses": (unused, HALVES, by_process, {}),
    "gradients that are zero": (unused, HALVES, by_process, {"set_to_none": False}),
    "views of buckets": (unused | {"gradient_as_bucket_view": True}, HALVES, by_process, {}),
    "a static graph": ({"static_graph": True}, HALVES, first, {}),
    "parts of other sizes": (unused, UNEVEN, by_process, {}),
    "gradients that wait": (unused, QUARTERS, first, {}),
}


def found_rates(model, part, kind, **options):
    """The rates that a range test finds, where each process has losses of its own."""
    optimizer = kind(model, **options)

    def loss(step):
        x, y = batch(step, part)
        return cross_entropy(model(x, False), y)

    found = learning_rate_range_test(model, optimizer, loss, highest=1.0, n_steps=30)
    return len(found.rates), found.steepest, found.largest


def sgd(model, **_):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def kfac(model, **options):
    return KFACOptimizer(model, lr=0.1, settings=SETTINGS, **options)


def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for name, (how, parts, second, options) in LOOPS.items():
        together, alone = Branches(), Branches()
        n_own = len(parts) // 2
        own = range(rank * n_own, (rank + 1) * n_own)
        train(DistributedDataParallel(together, **how), own, parts, second, **options)
        train(alone, range(len(parts)), parts, second, communicator=Serial())
        replicas = [torch.empty_like(flat(together)) for _ in range(2)]
        dist.all_gather(replicas, flat(together))
        if not torch.equal(*replicas):
            sys.exit(f"{name}: replicas differ")
        torch.testing.assert_close(
            flat(together), flat(alone), rtol=1e-12, atol=1e-14, msg=lambda text, name=name: f"{name}: {text}"
        )
    for kind in (sgd, kfac):
        together = found_rates(DistributedDataParallel(Branches(), **unused), HALVES[rank], kind)
        if together != found_rates(Branches(), slice(None), kind, communicator=Serial()):
            sys.exit(f"a range test of {kind.__name__} finds other rates on process {rank}")
    if rank == 0:
        print(f"{len(LOOPS)} loops agree with one process")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
