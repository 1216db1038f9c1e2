"""First-order optimizers by name; K-FAC stands in front of the first of them.

Each is built over two groups of parameters: weight matrices, and what is one-dimensional (biases and
normalizations), which is not decayed. A new one is a function and a row in `OPTIMIZERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class FirstOrder:
    """What the optimizers are told; each takes what it knows.

    Attributes:
        lr: The rate of the first step; the loop sets it anew before every step.
        momentum: Decay of the mean of gradients.
        weight_decay: Pull on weight matrices towards zero; of the gradient in sgd and lars, of the weights in
            the others.
        second_moment: Decay of the mean of squared gradients, in lamb, adamw and soap.
        trust: Of lars: the step of a weight matrix is this part of its norm at a rate of one. Biases step by the
            rate itself, which must suit them.
    """

    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    second_moment: float = 0.999
    trust: float = 2e-2

    @property
    def betas(self) -> tuple[float, float]:
        """Momentum and second moment as Adam and its kin want them."""
        return self.momentum, self.second_moment


def _sgd(model: nn.Module, options: FirstOrder) -> torch.optim.Optimizer:
    return torch.optim.SGD(_groups(model, options), options.lr, momentum=options.momentum)


def _lars(model: nn.Module, options: FirstOrder) -> torch.optim.Optimizer:
    """Layer-wise rates from the ratio of weight and gradient norms: You, Gitman, Ginsburg, arXiv 1708.03888."""
    from pytorch_optimizer import LARS

    return LARS(
        _groups(model, options), options.lr, momentum=options.momentum, trust_coefficient=options.trust
    )


def _lamb(model: nn.Module, options: FirstOrder) -> torch.optim.Optimizer:
    """The same ratio for Adam's steps: You et al., "Large batch optimization for deep learning", ICLR 2020."""
    from pytorch_optimizer import Lamb

    # The step has the norm of the weights already: corrected for the bias of the moments, as the library does
    # it by default, the first steps would be ten times that.
    return Lamb(_groups(model, options), options.lr, betas=options.betas, adam_debias=True)


def _adamw(model: nn.Module, options: FirstOrder) -> torch.optim.Optimizer:
    return torch.optim.AdamW(_groups(model, options), options.lr, betas=options.betas)


def _muon(model: nn.Module, options: FirstOrder) -> torch.optim.Optimizer:
    """Orthogonalized momentum for hidden weights, AdamW for the rest: Jordan et al., 2024.

    Hidden steps are scaled to the size of AdamW's (Liu et al., arXiv 2502.16982), so that both share one rate.
    """
    from pytorch_optimizer import Muon

    hidden: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    inner = {id(weight) for weight in weights[:-1]}
    for p in model.parameters():
        if p.requires_grad:
            (hidden if id(p) in inner else others).append(p)
    groups: Groups = [
        {"params": hidden, "use_muon": True, "weight_decay": options.weight_decay, "use_adjusted_lr": True},
        {"params": others, "use_muon": False, "weight_decay": 0.0, "betas": (options.momentum, 0.95)},
    ]
    return Muon(
        [group for group in groups if group["params"]],
        options.lr,
        momentum=options.momentum,
        adamw_lr=options.lr,
    )


def _soap(model: nn.Module, options: FirstOrder) -> torch.optim.Optimizer:
    """Adam in the eigenbasis of Shampoo's factors: Vyas et al., ICLR 2025. The first step only looks."""
    from pytorch_optimizer import SOAP

    return SOAP(_groups(model, options), options.lr, betas=options.betas, max_precondition_dim=2048)


OPTIMIZERS: dict[str, Callable[[nn.Module, FirstOrder], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "lars": _lars,
    "lamb": _lamb,
    "adamw": _adamw,
    "muon": _muon,
    "soap": _soap,
}


def set_rate(optimizer: torch.optim.Optimizer, lr: float, momentum: float) -> None:
    """Give every group this rate and this momentum, or first moment."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "momentum" in group:
            group["momentum"] = momentum
        elif "betas" in group:
            group["betas"] = (momentum, group["betas"][1])


def _groups(model: nn.Module, options: FirstOrder) -> Groups:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: Groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
