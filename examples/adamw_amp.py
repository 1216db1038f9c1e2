"""A transformer under AdamW with K-FAC: groups, a schedule, mixed precision with a gradient scaler, a checkpoint."""

import io

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pipeline.training import KFACOptimizer, KFACSettings

torch.manual_seed(0)
tokens = torch.randint(12, (128, 10))


class Reverser(nn.Module):
    """Says the tokens in reverse order."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 32)
        self.place = nn.Parameter(torch.randn(10, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(32, 12)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.table(tokens) + self.place))


def optimizer_of(model: nn.Module) -> KFACOptimizer:
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return KFACOptimizer(
        model, torch.optim.AdamW, params=groups, lr=3e-3, settings=KFACSettings(damping=0.01, kl_clip=0.0)
    )


model = Reverser()
optimizer = optimizer_of(model)
print("not preconditioned:", ", ".join(optimizer.kfac.not_preconditioned))
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
for _step in range(120):
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(tokens)
    loss = cross_entropy(scores.float().flatten(0, 1), tokens.flip(1).flatten())
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    schedule.step()
checkpoint = io.BytesIO()
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
checkpoint.seek(0)
restored = optimizer_of(model)
restored.load_state_dict(torch.load(checkpoint)["optimizer"])
print(f"loss {loss.item():.3f}, {optimizer.kfac.terms}")
assert loss.item() < 0.3
