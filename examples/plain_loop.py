"""K-FAC in front of any torch optimizer, in a loop of one's own, with accumulated gradients."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pipeline.training import KFAC, KFACSettings

torch.manual_seed(0)
patterns = torch.randn(4, 20)
labels = torch.randint(4, (256,))
images = patterns[labels] + torch.randn(256, 20)
model = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
kfac = KFAC(model, KFACSettings(damping=0.03, kl_clip=0.01))
print(
    "preconditioned:", ", ".join(kfac.preconditioned), "- not:", ", ".join(kfac.not_preconditioned) or "none"
)
for _epoch in range(8):
    for part in torch.randperm(256).split(64):
        optimizer.zero_grad()
        for indices in part.split(16):
            loss = cross_entropy(model(images[indices]), labels[indices])
            (loss / 4).backward()  # the scale is learned from the scores
        kfac.step(lr=0.3)
        optimizer.step()
print(kfac.terms)
accuracy = (model(images).argmax(1) == labels).float().mean()
print(f"accuracy {accuracy:.3f}")
assert accuracy > 0.95
