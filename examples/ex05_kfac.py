"""Train a small network on handwritten digits with batches of 512, by SGD and by K-FAC in front of SGD."""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

from pipeline.training import KFAC, KFACSettings

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16
labels = torch.tensor(digits.target)


def train(lr: float, settings: KFACSettings | None) -> list[float]:
    """Return the training loss of each of 60 steps."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    kfac = KFAC(model, settings) if settings else None
    losses = []
    for step in range(60):
        batch = torch.arange(512 * step, 512 * (step + 1)) % 1437
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        if kfac:
            kfac.step(lr)
        optimizer.step()
        losses.append(loss.item())
    return losses


figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
sgd = [train(lr, None) for lr in (0.1, 0.3, 1.0)]
kfac = train(0.3, KFACSettings(damping=3e-2, factor_interval=5, inverse_interval=5))
for lr, losses in zip((0.1, 0.3, 1.0), sgd, strict=True):
    axes.semilogy(losses, color="0.6", label=f"SGD, rate {lr}")
axes.semilogy(kfac, label="K-FAC, rate 0.3")
axes.set(xlabel="step", ylabel="training loss")
axes.legend()
figure.savefig("ex05_kfac.png")
print(f"loss after 20 steps: SGD {min(losses[20] for losses in sgd):.3f}, K-FAC {kfac[20]:.3f}")

assert kfac[20] < min(losses[20] for losses in sgd)
