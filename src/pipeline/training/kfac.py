"""K-FAC: replace gradients by natural gradients before any torch optimizer.

    loss.backward()
    kfac.step(lr)
    optimizer.step()

Every `factor_interval` steps the Kronecker factors of each layer follow the statistics of the step by a
moving average; every `inverse_interval` steps they are inverted. The maths stands in `kronecker`, the hooks
in `capture`, the messages in `exchange`, and `assignment` deals the inversions to processes.
"""

import math
from typing import TypedDict

import torch
from torch import Tensor, nn

from pipeline.errors import ConvergenceError
from pipeline.runtime.communicator import Communicator, Serial
from pipeline.training.assignment import assign
from pipeline.training.capture import Capture, Key
from pipeline.training.exchange import Exchange
from pipeline.training.kronecker import damped_inverse, split_damping

RETRY = 10.0  # how much more damping a factor gets when its Cholesky factorization fails


class KFACState(TypedDict):
    """What a resumed run needs: matrices by "factor/A/layer" and plain numbers."""

    tensors: dict[str, Tensor]
    scalars: dict[str, int]


class KFAC:
    """Precondition the gradients of linear and convolutional layers by their Kronecker-factored Fisher
    matrices.

    The Fisher matrix is the empirical one, of the gradients that `backward` computes, taken sample by sample.
    Statistics come from passes in training mode between two calls of `step`, so gradients may be
    accumulated over several passes. With several processes each contributes its own passes: statistics are
    summed over all, each factor is inverted by one process, and all end with bit-equal factors and
    inverses. Gradients must be reduced by the caller before `step`.

    Args:
        model: The network; its hooks stay until `remove`.
        damping: Tikhonov damping of each layer's Fisher matrix, split between the factors.
        factor_decay: Weight of the past in the moving average of factors. The first steps average plainly.
        factor_interval: Steps between updates of the factors.
        inverse_interval: Steps between updates of the inverses.
        kl_clip: Largest lr^2 u'g of a step, u'g standing for u'Fu; larger steps are scaled down. 0: no limit.
        sample_fraction: Share of each pass's samples that the factors are computed from.
        communicator: The processes that train together.
        mean_loss: Whether `backward` starts from a mean over the samples of a pass (torch's default), or from
            their sum.

    Attributes:
        preconditioned: Names of the layers whose gradients are rewritten.
        not_preconditioned: Names of the trained parameters that keep their gradients.
        n_retries: Inversions that needed ten times the damping.
        n_stale: Inversions that failed even so; the last inverse stayed, or the identity before the first.
        n_skipped: Factor updates left out because statistics were not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        damping: float,
        factor_decay: float = 0.95,
        factor_interval: int = 1,
        inverse_interval: int = 1,
        kl_clip: float = 1e-3,
        sample_fraction: float = 1.0,
        communicator: Communicator | None = None,
        mean_loss: bool = True,
    ) -> None:
        if not damping > 0:
            raise ValueError(f"damping must be positive, not {damping}")
        self.damping = damping
        self.factor_decay = factor_decay
        self.factor_interval = factor_interval
        self.inverse_interval = inverse_interval
        self.kl_clip = kl_clip
        self.n_retries = self.n_stale = self.n_skipped = 0
        self._step = 0
        self._n_averaged = 0
        self._factors: dict[Key, Tensor] = {}
        self._inverses: dict[Key, Tensor] = {}
        self._capture = Capture(
            model,
            active=lambda: self._step % factor_interval == 0,
            sample_fraction=sample_fraction,
            mean_loss=mean_loss,
        )
        self._layers = self._capture.layers
        covered = {id(p) for layer in self._layers.values() for p in layer.parameters()}
        self.preconditioned = tuple(self._layers)
        self.not_preconditioned = tuple(
            name for name, p in model.named_parameters() if p.requires_grad and id(p) not in covered
        )
        communicator = communicator or Serial()
        self._rank = communicator.rank
        sizes = {key: n for name, layer in self._layers.items() for key, n in _sizes(name, layer).items()}
        owners = dict(zip(sizes, assign(list(sizes.values()), communicator.size), strict=True))
        self._exchange = Exchange(sizes, owners, communicator)

    def remove(self) -> None:
        """Take the hooks off the model."""
        self._capture.remove()

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Rewrite the gradients of all preconditioned layers.

        Args:
            lr: The rate of the optimizer step that follows, which `kl_clip` refers to.

        Raises:
            ConvergenceError: If a natural gradient is not finite; step and layer are named.
        """
        if self._layers:
            if self._step % self.factor_interval == 0:
                self._average_factors()
            if self._step % self.inverse_interval == 0:
                self._invert_factors()
            self._precondition(lr)
        self._step += 1

    def state_dict(self) -> KFACState:
        """Return all that the next step depends on; tensors are not copied."""
        factors = {f"factor/{matrix}/{name}": M for (name, matrix), M in self._factors.items()}
        inverses = {f"inverse/{matrix}/{name}": M for (name, matrix), M in self._inverses.items()}
        counts = {"step": self._step, "n_averaged": self._n_averaged}
        failures = {"n_retries": self.n_retries, "n_stale": self.n_stale, "n_skipped": self.n_skipped}
        return {"tensors": factors | inverses, "scalars": counts | failures}

    def load_state_dict(self, state: KFACState) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ValueError: If the state is that of another network.
        """
        factors: dict[Key, Tensor] = {}
        inverses: dict[Key, Tensor] = {}
        for path, M in state["tensors"].items():
            kind, matrix, name = path.split("/", 2)
            n = self._exchange.sizes.get((name, matrix))
            if n is None or M.shape != (n, n):
                raise ValueError(f"the K-FAC state has {path} of shape {tuple(M.shape)}, the network {n}")
            (factors if kind == "factor" else inverses)[name, matrix] = M.clone()
        self._factors, self._inverses = factors, inverses
        counts = state["scalars"]
        self._step, self._n_averaged = counts["step"], counts["n_averaged"]
        self.n_retries, self.n_stale = counts["n_retries"], counts["n_stale"]
        self.n_skipped = counts["n_skipped"]

    def _average_factors(self) -> None:
        means = self._exchange.mean(self._capture.take(), like=self._any_weight())
        decay = min(self.factor_decay, 1 - 1 / (self._n_averaged + 1))
        self._n_averaged += 1
        for key, mean in means.items():
            if not bool(mean.isfinite().all()):
                self.n_skipped += 1
            elif key in self._factors:
                self._factors[key].lerp_(mean, 1 - decay)
            else:
                self._factors[key] = mean

    def _invert_factors(self) -> None:
        keys = [key for key in self._exchange.sizes if self._has_factors(key[0])]
        failures = torch.zeros(2, dtype=torch.int64, device=self._any_weight().device)
        for name, matrix in keys:
            if self._exchange.owners[name, matrix] != self._rank:
                continue
            factor = self._factors[name, matrix]
            dampings = split_damping(self._factors[name, "A"], self._factors[name, "G"], self.damping)
            damping = dampings[0] if matrix == "A" else dampings[1]
            inverse = damped_inverse(factor, damping)
            if inverse is None:
                inverse = damped_inverse(factor, RETRY * damping)
                failures[0 if inverse is not None else 1] += 1
            if inverse is None:
                inverse = self._inverses.get((name, matrix), torch.eye(len(factor)).to(factor))
            self._inverses[name, matrix] = inverse
        self._exchange.share(self._inverses, keys, like=self._any_weight())
        self._exchange.communicator.all_reduce(failures)
        n_retries, n_stale = failures.tolist()
        self.n_retries += n_retries
        self.n_stale += n_stale

    def _precondition(self, lr: float) -> None:
        natural: dict[str, Tensor] = {}
        products = []
        for name, layer in self._layers.items():
            gradient = _gradient(layer)
            if gradient is None or (name, "A") not in self._inverses:
                continue
            natural[name] = self._inverses[name, "G"] @ gradient @ self._inverses[name, "A"]
            products.append(torch.sum(natural[name] * gradient))
        if not natural:
            return
        by_layer = torch.stack(products).tolist()
        for name, product in zip(natural, by_layer, strict=True):
            if not math.isfinite(product):
                raise ConvergenceError(
                    f"the natural gradient of layer {name} is not finite at step {self._step + 1}; "
                    "raise damping or lower lr"
                )
        scale = 1.0
        if self.kl_clip > 0:
            scale = min(1.0, math.sqrt(self.kl_clip / (lr**2 * abs(sum(by_layer)) + 1e-30)))
        for name, matrix in natural.items():
            _set_gradient(self._layers[name], matrix.mul_(scale))

    def _has_factors(self, name: str) -> bool:
        return (name, "A") in self._factors and (name, "G") in self._factors

    def _any_weight(self) -> Tensor:
        return next(iter(self._layers.values())).weight


def _sizes(name: str, layer: nn.Linear | nn.Conv2d) -> dict[Key, int]:
    n_inputs = layer.weight[0].numel() + (layer.bias is not None)
    return {(name, "A"): n_inputs, (name, "G"): len(layer.weight)}


def _gradient(layer: nn.Linear | nn.Conv2d) -> Tensor | None:
    """Gradients of weight and bias as one matrix (n_outputs, n_inputs + 1); None where none was computed."""
    if layer.weight.grad is None:
        return None
    matrix = layer.weight.grad.flatten(1)
    if layer.bias is None:
        return matrix
    bias = layer.bias.grad if layer.bias.grad is not None else torch.zeros_like(layer.bias)
    return torch.cat([matrix, bias[:, None]], dim=1)


def _set_gradient(layer: nn.Linear | nn.Conv2d, matrix: Tensor) -> None:
    assert layer.weight.grad is not None
    if layer.bias is not None:
        if layer.bias.grad is not None:
            layer.bias.grad.copy_(matrix[:, -1])
        matrix = matrix[:, :-1]
    layer.weight.grad.copy_(matrix.view_as(layer.weight))
