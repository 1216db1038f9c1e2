import math

import pytest
import torch
from torch import nn

from pipeline.runtime.communicator import Serial, run_in_threads
from pipeline.training import Samples
from pipeline.training.halves import Halves, Noise
from pipeline.training.objective import Objective


@pytest.mark.parametrize("sizes", [(1, 1), (3, 3), (4, 9)])
def test_noise_is_estimated_without_bias_on_a_quadratic_whose_noise_is_known(sizes, rng):
    # Loss |w - x|^2 / 2 of samples x ~ N(0, diag(1, 4, 9)) at w = (1, 2, 0): G = w, and the trace of S is 14.
    w, deviation = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 2.0, 3.0])
    # Twenty thousand estimates add up in groups: a group of independent ones is one of as many weights.
    n, n_groups, n_together = sum(sizes), 100, 200
    samples = w - deviation * torch.randn(n_groups, n, n_together, 3, generator=rng)
    variances, squares = [], []
    for gradients in samples:
        first, second = gradients[: sizes[0]].mean(dim=0), gradients[sizes[0] :].mean(dim=0)
        found = Halves(sizes, {"w": first - second}).noise({"w": gradients.mean(dim=0)})
        variances.append(found.variance / n_together)
        squares.append(found.square / n_together)
    for values, truth in ((variances, 14.0), (squares, 5.0)):
        values = torch.tensor(values)
        # Five standard errors of the mean.
        assert abs(float(values.mean()) - truth) < 5 * float(values.std()) / math.sqrt(n_groups)


def test_noises_add_up():
    assert Noise(1.0, 2.0) + Noise(3.0, -5.0) == Noise(4.0, -3.0)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(generator=torch.Generator().manual_seed(1))

    def forward(self, x):
        return self.layer(x.flatten(1))


@pytest.mark.parametrize("n_processes", [1, 2, 3])
@pytest.mark.parametrize(("n", "micro_batch"), [(7, 100), (7, 2), (12, 4), (2, 1)])
def test_halves_of_a_batch_differ_by_the_gradients_of_its_samples(n, micro_batch, n_processes, rng):
    samples = Samples(torch.randn(n, 1, 2, 2, generator=rng), torch.arange(n) % 3)

    def work(communicator):
        model = Linear()
        objective = Objective(
            model,
            samples,
            lambda step: torch.arange(n),
            n_classes=3,
            smoothing=(),
            micro_batch=micro_batch,
            seed=0,
            communicator=communicator,
            in_halves=True,
        )
        objective.backward(0, done=0.0)
        return model, objective.halves

    for model, halves in [work(Serial())] if n_processes == 1 else run_in_threads(n_processes, work):
        assert sum(halves.sizes) == n
        first = slice(0, halves.sizes[0]), slice(halves.sizes[0], n)
        expected = []
        for part in first:
            alone = Linear()
            nn.functional.cross_entropy(alone(samples.images[part]), samples.labels[part]).backward()
            expected.append({name: p.grad for name, p in alone.named_parameters()})
        for name, p in model.named_parameters():
            torch.testing.assert_close(halves.difference[name].float(), expected[0][name] - expected[1][name])
            whole = sum(size * g[name] for size, g in zip(halves.sizes, expected, strict=True)) / n
            torch.testing.assert_close(p.grad, whole)
