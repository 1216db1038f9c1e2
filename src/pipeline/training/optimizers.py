"""Optimizers by name; K-FAC preconditions gradients for the first of them, SGD.

Each is a frozen dataclass of its options that builds a torch optimizer. Most have two groups of parameters: weight
matrices, and one-dimensional parameters (biases and normalizations), which have no weight decay. A new optimizer is a
class and a row in `OPTIMIZERS`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import torch
from annotated_types import Interval
from torch import nn

from pipeline.options import Decay, NotNegative, Positive, require_bounds
from pipeline.training.settings import KFACSettings, PlacementName

ParameterGroups = list[dict[str, Any]]


@runtime_checkable
class HasMean(Protocol):
    """An optimizer whose weights in training are not those that it ends with."""

    def train(self) -> None: ...

    def eval(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The options of every optimizer.

    Attributes:
        lr: Peak learning rate, reached after the warm-up.
        momentum: Decay of the moving average of gradients.
        weight_decay: Weight decay of weight matrices; biases and normalizations have none.
    """

    name: ClassVar[str]

    lr: Positive
    momentum: Decay = 0.9
    weight_decay: NotNegative = 5e-4

    def __post_init__(self) -> None:
        require_bounds(self)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the torch optimizer of a network's trained parameters."""
        raise NotImplementedError

    def groups(self, model: nn.Module) -> ParameterGroups:
        """Divide the trained parameters into those that decay and those that do not."""
        trained = [p for p in model.parameters() if p.requires_grad]
        groups: ParameterGroups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Gradient descent with momentum."""

    name: ClassVar[str] = "sgd"

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.groups(model), self.lr, momentum=self.momentum)


@dataclass(frozen=True, kw_only=True)
class LARS(Optimizer):
    """Gradient descent with momentum and a rate for each layer from the norms of weights and gradients [1].

    Attributes:
        trust: Norm of a step at rate 1, relative to the norm of the weight matrix. Biases use the rate itself, which
            must suit them.

    References:
        [1] You, Gitman, Ginsburg, "Large batch training of convolutional networks", 2017, arXiv:1708.03888.
    """

    name: ClassVar[str] = "lars"

    trust: Positive = 2e-2

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        from pytorch_optimizer import LARS as Built

        return Built(self.groups(model), self.lr, momentum=self.momentum, trust_coefficient=self.trust)


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay.

    Attributes:
        second_moment: Decay of the moving average of squared gradients.
    """

    name: ClassVar[str] = "adamw"

    second_moment: Decay = 0.999

    @property
    def betas(self) -> tuple[float, float]:
        """The decays of both moving averages, as Adam takes them."""
        return self.momentum, self.second_moment

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.groups(model), self.lr, betas=self.betas)


@dataclass(frozen=True, kw_only=True)
class LAMB(AdamW):
    """Adam with each layer's step scaled to the norm of its weights [1].

    References:
        [1] You et al., "Large batch optimization for deep learning", ICLR 2020.
    """

    name: ClassVar[str] = "lamb"

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        from pytorch_optimizer import Lamb

        # The step has the norm of the weights already. With the library's default correction for the bias of the
        # moments, the first steps would be ten times as long.
        return Lamb(self.groups(model), self.lr, betas=self.betas, adam_debias=True)


@dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    """Orthogonalized momentum for hidden weights [1], AdamW for the rest.

    Steps of hidden weights are scaled to the size of AdamW's [2], so that both can use one learning rate.

    References:
        [1] Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
        [2] Liu et al., "Muon is scalable for LLM training", 2025, arXiv:2502.16982.
    """

    name: ClassVar[str] = "muon"

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        from pytorch_optimizer import Muon as Built

        hidden: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        inner = {id(weight) for weight in weights[:-1]}
        for p in model.parameters():
            if p.requires_grad:
                (hidden if id(p) in inner else others).append(p)
        groups: ParameterGroups = [
            {"params": hidden, "use_muon": True, "weight_decay": self.weight_decay, "use_adjusted_lr": True},
            {"params": others, "use_muon": False, "weight_decay": 0.0, "betas": (self.momentum, 0.95)},
        ]
        return Built(
            [group for group in groups if group["params"]],
            self.lr,
            momentum=self.momentum,
            adamw_lr=self.lr,
        )


@dataclass(frozen=True, kw_only=True)
class SOAP(AdamW):
    """Adam in the eigenbasis of Shampoo's factors [1]. The first step moves no weights.

    Attributes:
        second_moment: Decay of the moving averages of squared gradients and of factors.

    References:
        [1] Vyas et al., "SOAP: improving and stabilizing Shampoo using Adam", ICLR 2025.
    """

    name: ClassVar[str] = "soap"

    second_moment: Decay = 0.95

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        from pytorch_optimizer import SOAP as Built

        return Built(self.groups(model), self.lr, betas=self.betas, max_precondition_dim=2048)


@dataclass(frozen=True, kw_only=True)
class ScheduleFree(Optimizer):
    """Gradient descent that needs no decay of its rate, because it ends with a mean of its iterates [1].

    Gradients are taken between the last iterate and the mean; the mean is evaluated and kept. The schedule must be
    "constant". Running statistics of batch normalization are those of the points where gradients were taken.

    Attributes:
        momentum: Place at which gradients are taken: 0 is at the last iterate, 1 at the mean.

    References:
        [1] Defazio et al., "The road less scheduled", NeurIPS 2024, arXiv:2405.15682.
    """

    name: ClassVar[str] = "schedule_free"

    momentum: Annotated[float, Interval(gt=0, lt=1)] = 0.9

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        from pytorch_optimizer import ScheduleFreeSGD

        return ScheduleFreeSGD(self.groups(model), self.lr, momentum=self.momentum)


@dataclass(frozen=True, kw_only=True)
class SecondOrder(KFACSettings, SGD):
    """K-FAC preconditioning in front of gradient descent with momentum."""

    name: ClassVar[str] = "kfac"


@dataclass(frozen=True, kw_only=True)
class FOP(SecondOrder):
    """K-FAC with the difference between two halves of a batch in its gradient (Fisher-orthogonal projection)."""

    name: ClassVar[str] = "fop"

    placement: PlacementName = "replicate"
    difference_weight: NotNegative = 1.0


OPTIMIZERS: dict[str, type[Optimizer]] = {
    kind.name: kind for kind in (SGD, LARS, LAMB, AdamW, Muon, SOAP, ScheduleFree)
}

#: The methods that precondition by K-FAC, in front of gradient descent with momentum.
SECOND_ORDER: dict[str, type[SecondOrder]] = {kind.name: kind for kind in (SecondOrder, FOP)}

#: All methods that can train a run.
METHODS: dict[str, type[Optimizer]] = {**OPTIMIZERS, **SECOND_ORDER}


@contextmanager
def at_mean(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Give the network the optimizer's final weights within the context; afterwards they are restored bit for bit."""
    if not isinstance(optimizer, HasMean):
        yield
        return
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [p.detach().clone() for p in weights]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for p, old in zip(weights, kept, strict=True):
                p.copy_(old)


def settle(optimizer: torch.optim.Optimizer) -> None:
    """Give the network the weights that an optimizer ends with."""
    if isinstance(optimizer, HasMean):
        optimizer.eval()


def set_rate(optimizer: torch.optim.Optimizer, lr: float, momentum: float) -> None:
    """Set the learning rate, and the momentum or first beta, of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "momentum" in group:
            group["momentum"] = momentum
        elif "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
