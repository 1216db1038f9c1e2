"""K-FAC on a smoothed objective in a loop of one's own: a range test, mixup, weight noise, SAM, an average, a log."""

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from pipeline.training import (
    JSONLines,
    KFACOptimizer,
    KFACSettings,
    MixupCollate,
    SmoothedOptimizer,
    learning_rate_range_test,
)
from pipeline.training.smoothing import SAM, Mixup, WeightAverage, WeightNoise

torch.manual_seed(0)
patterns = torch.randn(5, 30)
labels = torch.randint(5, (600,))
images = patterns[labels] + 2 * torch.randn(600, 30)
model = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 5))
inner = KFACOptimizer(model, lr=0.1, momentum=0.9, settings=KFACSettings(damping=0.1))
found = learning_rate_range_test(model, inner, lambda _: cross_entropy(model(images[:128]), labels[:128]))
print(f"the loss falls fastest at a rate of {found.steepest:.2g}, and no further beyond {found.largest:.2g}")

loader = DataLoader(
    TensorDataset(images[:500], labels[:500]), 100, shuffle=True, collate_fn=MixupCollate(Mixup(alpha=0.4), 5)
)
smoothing = [WeightNoise(std=0.2), SAM(rho=0.05), WeightAverage(share=0.5)]
optimizer = SmoothedOptimizer(model, inner, smoothing, n_steps=8 * len(loader))
with tempfile.TemporaryDirectory() as folder, JSONLines(Path(folder) / "log.jsonl") as log:
    for _ in range(8):
        for x, targets in loader:

            def closure(x: torch.Tensor = x, targets: torch.Tensor = targets) -> torch.Tensor:
                optimizer.zero_grad()
                loss = cross_entropy(model(x), targets)
                loss.backward()
                return loss

            loss = optimizer.step(closure)
        log(optimizer.n_done, {"loss": loss.item(), **inner.kfac.statistics()})
optimizer.settle()
accuracy = (model(images[500:]).argmax(1) == labels[500:]).float().mean()
print(f"accuracy {accuracy:.2f} on images that were not seen")
assert accuracy > 0.8
