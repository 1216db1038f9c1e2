"""K-FAC: replace gradients by natural gradients before any torch optimizer.

    loss.backward()
    kfac.step(lr)
    optimizer.step()

Every `factor_interval` steps the Kronecker factors of each layer follow the statistics of the step by a
moving average; every `inverse_interval` steps they are inverted. The maths stands in `kronecker`, the kinds
of layers in `layers`, the hooks in `capture`, the messages in `exchange`; `assignment` deals the inversions
to processes and `damping` adapts the damping.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from pipeline.errors import ConvergenceError
from pipeline.runtime.communicator import Communicator, Serial
from pipeline.settings import KFACSettings
from pipeline.training.assignment import place
from pipeline.training.capture import CORRECTION, Capture, Key, Moments
from pipeline.training.damping import Trial, adapted, scheduled
from pipeline.training.exchange import Exchange
from pipeline.training.kronecker import (
    damped_inverse,
    eigenbasis,
    is_finite,
    multiply_left,
    multiply_right,
    turn_eigenvalues,
)
from pipeline.training.layers import KroneckerProduct, Structure, structure_of
from pipeline.training.randomness import Purpose, generator

FAILURES = ("n_retries", "n_stale", "n_skipped")
NUMBERS = (
    "damping",
    "_step",
    "_n_averaged",
    "_next_factors",
    "_next_inverses",
    "_stretch",
    "_last_factors",
    "_last_inverses",
)
RETRY = 10.0  # how much more damping a factor gets when its Cholesky factorization fails
LONGEST = 16  # how many times their usual length adaptive intervals get at most


class KFACState(TypedDict):
    """What a resumed run needs: matrices by "factor/A/layer" and plain numbers."""

    tensors: dict[str, Tensor]
    scalars: dict[str, float]


class KFAC:
    """Precondition the gradients of layers by their approximate Fisher matrices.

    Linear and convolutional layers get Kronecker products, embeddings such with a diagonal input factor,
    normalizations a 2 x 2 matrix per unit. The Fisher matrix is the empirical one, of the gradients that
    `backward` computes, taken sample by sample, or that of classes drawn by `sample_fisher`. Statistics come
    from passes in training mode between two calls of `step`, so gradients may be accumulated over several
    passes. With several processes each contributes its own passes: statistics are summed over all, and all
    end with bit-equal gradients. Gradients must be reduced by the caller before `step`. A sample is an entry
    of the first dimension of a layer's input.

    Args:
        model: The network; its hooks stay until `remove`.
        settings: How to precondition.
        communicator: The processes that train together.
        mean_loss: Whether `backward` starts from a mean over the samples of a pass (torch's default), or from
            their sum.
        seed: Of the classes that `sample_fisher` draws.

    Attributes:
        damping: As it is now, where it is scheduled or adaptive.
        preconditioned: Names of the layers whose gradients are rewritten.
        not_preconditioned: Names of the trained parameters that keep their gradients.
        n_retries: Inversions that needed ten times the damping.
        n_stale: Inversions that failed even so; the last inverse stayed, or the identity before the first.
        n_skipped: Factor updates left out because statistics were not finite.
        step_size: lr^2 u'g of the last step after clipping, about twice its KL divergence.
        seconds: Time spent so far in "factors" (their exchange and average), "inverses" and "gradients".

    Raises:
        ValueError: If damping is to be adaptive and the processes do not hold all factors.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: KFACSettings | None = None,
        *,
        communicator: Communicator | None = None,
        mean_loss: bool = True,
        seed: int = 0,
    ) -> None:
        self.settings = settings = settings or KFACSettings()
        communicator = communicator or Serial()
        if (
            settings.damping_rule == "adaptive"
            and communicator.size > 1
            and settings.placement != "replicate"
        ):
            raise ValueError(
                f"damping_rule 'adaptive' needs all factors on every process; set placement to 'replicate', not "
                f"{settings.placement!r}"
            )
        self.damping = settings.damping
        self.n_retries = self.n_stale = self.n_skipped = 0
        self.step_size = 0.0
        self.seconds = {"factors": 0.0, "inverses": 0.0, "gradients": 0.0}
        self._seed = seed
        self._step = 0
        self._n_averaged = 0
        self._next_factors = self._next_inverses = 0
        self._stretch = 1
        self._last_factors = self._last_inverses = 0
        self._factors: dict[Key, Tensor] = {}
        self._inverses: dict[Key, Tensor] = {}
        self._corrections: dict[str, Tensor] = {}
        self._bases: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
        self._known: set[Key] = set()  # matrices with a factor, here or at their owner
        self._ready: set[str] = set()  # layers with inverses
        self._warned: set[str] = set()
        self._trial: Trial | None = None
        self._layers: dict[str, Structure] = {}
        for name, module in model.named_modules():
            structure = structure_of(module, block_size=settings.block_size)
            if structure is not None:
                self._layers[name] = structure
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        covered = {id(p) for layer in self._layers.values() for p in layer.parameters}
        self.preconditioned = tuple(self._layers)
        self.not_preconditioned = tuple(name for name, p in self._weights.items() if id(p) not in covered)
        self._capture = Capture(
            model,
            self._layers,
            active=lambda: self._step >= self._next_factors,
            sample_fraction=settings.sample_fraction,
            mean_loss=mean_loss,
            sampled=settings.fisher == "monte_carlo",
            bases=self._bases,
        )
        shapes = {
            (name, m): shape for name, layer in self._layers.items() for m, shape in layer.shapes.items()
        }
        self._placement = place(
            shapes,
            {name: sum(p.numel() for p in layer.parameters) for name, layer in self._layers.items()},
            # Every process needs the eigenbases to see gradients in them.
            placement="replicate" if settings.ekfac else settings.placement,
            inverse_interval=settings.inverse_interval,
            n_processes=communicator.size,
        )
        dtype = getattr(torch, settings.communication)
        self._exchange = Exchange(shapes, self._placement.owners, communicator, dtype)

    def remove(self) -> None:
        """Take the hooks off the model."""
        self._capture.remove()

    def paused(self) -> AbstractContextManager[None]:
        """Let passes go unseen for a while."""
        return self._capture.pause()

    def discard(self) -> None:
        """Forget the statistics of the passes since the last step."""
        self._capture.take()

    def set_loss_scale(self, scale: float) -> None:
        """Tell what the losses of the following backward passes are multiplied by, against underflow."""
        self._capture.loss_scale = scale

    def sample_fisher(self, scores: Tensor, *position: int) -> None:
        """Draw a class for every sample and take statistics of its gradients, where these are wanted.

        Call it between the forward and the backward pass if `fisher` is "monte_carlo"; otherwise it does
        nothing.

        Args:
            scores: What the network gave, shape (n, n_classes).
            position: Of the random numbers, beside the step: the number of the micro-batch.
        """
        if self.settings.fisher == "monte_carlo" and not self._capture.paused:
            rng = generator(self._seed, Purpose.FISHER, self._step, *position)
            self._capture.sample(scores, torch.from_numpy(rng.random(len(scores))).to(scores.device))

    @torch.no_grad()
    def step(self, lr: float, *, done: float = 0.0) -> None:
        """Rewrite the gradients of all preconditioned layers.

        Args:
            lr: The rate of the optimizer step that follows, which `kl_clip` refers to.
            done: The part of training that is done, in [0, 1), which scheduled damping follows.

        Raises:
            ConvergenceError: If a natural gradient is not finite; step and layer are named.
        """
        if self._layers:
            if self.settings.damping_rule == "scheduled":
                self.damping = scheduled(self.settings.damping, self.settings.final_damping, done)
            if self._step >= self._next_factors:
                with self._timed("factors"):
                    self._average_factors()
                self._next_factors = self._step + self._stretch * self.settings.factor_interval
            if self._step >= self._next_inverses:
                with self._timed("inverses"):
                    self._invert_factors()
                self._next_inverses = self._step + self._stretch * self.settings.inverse_interval
            if self.settings.damping_rule == "adaptive" and self._step % Trial.INTERVAL == 0:
                self._trial = Trial.begin(self._weights)
            with self._timed("gradients"):
                self._precondition(lr)
        self._step += 1

    @property
    def wants_verdict(self) -> bool:
        """Whether adaptive damping waits for `judge`."""
        return self._trial is not None

    @torch.no_grad()
    def judge(self, before: float, after: float) -> None:
        """Adapt the damping by how well the quadratic model foretold the change of the loss.

        Call it after the optimizer's step where `wants_verdict` says so.

        Args:
            before: Mean loss of the step's batch at the weights before the step.
            after: The same, of the same samples, noise and mixtures, after it.
        """
        assert self._trial is not None
        predicted = self._trial.predicted_change(self._weights, self._layers, self._factors, self.damping)
        self.damping = adapted(self.damping, after - before, predicted)
        self._trial = None

    @torch.no_grad()
    def statistics(self) -> dict[str, Any]:
        """Figures for a log; all processes must call it together and get the same.

        Returns:
            The attributes `damping`, `step_size`, `n_retries`, `n_stale`, `n_skipped` and `seconds`;
            "factor_age" and "inverse_age" in steps; and under "layers", by layer and matrix, the "damping" on
            its diagonal, its "trace", and its "condition" with damping. Costs the eigenvalues of all factors.
        """
        keys = [key for key in self._exchange.shapes if key in self._known]
        dampings = self._dampings()
        table = torch.zeros(len(keys), 2, dtype=torch.float64, device=self._device)
        for i, key in enumerate(keys):
            if self._reports(key):
                factor = self._factors[key].double()
                eigenvalues = torch.linalg.eigvalsh(factor).clamp_min(0) + dampings[key]
                table[i, 0] = factor.diagonal(dim1=-2, dim2=-1).sum()
                table[i, 1] = eigenvalues.max() / eigenvalues.min()
        self._communicator.all_reduce(table)
        layers: dict[str, dict[str, dict[str, float]]] = {}
        for (name, matrix), (trace, condition) in zip(keys, table.tolist(), strict=True):
            figures = {"damping": dampings[name, matrix], "trace": trace, "condition": condition}
            layers.setdefault(name, {})[matrix] = figures
        return {
            "damping": self.damping,
            "step_size": self.step_size,
            **{name: getattr(self, name) for name in FAILURES},
            "factor_age": self.factor_age,
            "inverse_age": self.inverse_age,
            "seconds": dict(self.seconds),
            "layers": layers,
        }

    def state_dict(self) -> KFACState:
        """Return all that the next step depends on, whole on every process; tensors are not copied.

        All processes must call it together: it brings together what `placement` has spread. So a run may go
        on with another number of processes.
        """
        keys = [key for key in self._exchange.shapes if key in self._known]
        factors, inverses = dict(self._factors), dict(self._inverses)
        self._exchange.share(factors, keys, like=self._like)
        spread = [key for key in keys if key[0] in self._ready and key[0] in self._placement.preconditioners]
        self._exchange.share(inverses, spread, like=self._like)
        groups: dict[str, dict[Key, Tensor]] = {"factor": factors, "inverse": inverses, "basis": {}}
        groups["correction"] = {(name, CORRECTION): S for name, S in self._corrections.items()}
        for name, bases in self._bases.items():
            for matrix, Q in zip(self._layers[name].shapes, bases[0] + bases[1], strict=True):
                groups["basis"][name, matrix] = Q
        return {
            "tensors": {
                f"{group}/{matrix}/{name}": M
                for group, matrices in groups.items()
                for (name, matrix), M in matrices.items()
            },
            "scalars": {name: getattr(self, name) for name in FAILURES}
            | {name.removeprefix("_"): getattr(self, name) for name in NUMBERS},
        }

    def load_state_dict(self, state: KFACState) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ValueError: If the state is that of another network, or of other blocks.
        """
        groups: dict[str, dict[Key, Tensor]] = {"factor": {}, "inverse": {}, "basis": {}, "correction": {}}
        for path, M in state["tensors"].items():
            group, matrix, name = path.split("/", 2)
            shape = self._exchange.shapes.get((name, matrix))
            if group != "correction" and (shape is None or M.shape != shape):
                raise ValueError(f"the K-FAC state has {path} of shape {tuple(M.shape)}, the network {shape}")
            groups[group][name, matrix] = M.clone()
        self._factors, self._inverses = groups["factor"], groups["inverse"]
        self._corrections = {name: S for (name, _), S in groups["correction"].items()}
        self._bases.clear()
        for name in dict.fromkeys(name for name, _ in groups["basis"]):
            self._bases[name] = self._in_order(name, groups["basis"])
        self._known = set(self._factors)
        self._ready = {name for name, _ in (*self._inverses, *groups["basis"])}
        for attribute in (*FAILURES, *NUMBERS):
            setattr(self, attribute, state["scalars"][attribute.removeprefix("_")])

    @property
    def factor_age(self) -> int:
        """Steps since the factors were updated, the one of the update included."""
        return self._step - self._last_factors

    @property
    def inverse_age(self) -> int:
        """Steps since the factors were inverted, the one of the inversion included."""
        return self._step - self._last_inverses

    @property
    def _communicator(self) -> Communicator:
        return self._exchange.communicator

    @property
    def _like(self) -> Tensor:
        return next(iter(self._layers.values())).parameters[0]

    @property
    def _device(self) -> torch.device:
        return self._like.device

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[phase] += perf_counter() - start

    def _reports(self, key: Key) -> bool:
        """Whether it is this process that counts what happens to a matrix."""
        if self._exchange.owners is None and self._communicator.rank:
            return False
        return key in self._factors and self._exchange.is_mine(key)

    def _average_factors(self) -> None:
        moments = self._capture.take()
        self._average_corrections(moments)
        means, seen = self._exchange.mean(moments, like=self._like)
        decay = min(self.settings.factor_decay, 1 - 1 / (self._n_averaged + 1))
        self._n_averaged += 1
        skipped: set[Key] = set()
        changes = []
        for key, mean in means.items():
            if not is_finite(mean):
                skipped.add(key)
            elif key in self._factors:
                if self.settings.adaptive_change:
                    factor = self._factors[key]
                    changes.append(float((mean - factor).norm() / factor.norm().clamp_min(1e-30)))
                self._factors[key].lerp_(mean, 1 - decay)
            else:
                self._factors[key] = mean
        keys = list(self._exchange.shapes)
        held = [float(key in self._factors and self._exchange.is_mine(key)) for key in keys]
        n_skipped = sum(self._speaks_for(key) for key in skipped)
        *flags, total, change, n_changes = self._sum([*held, n_skipped, sum(changes), len(changes)])
        self._known = {key for key, flag in zip(keys, flags, strict=True) if flag}
        self.n_skipped += round(total)
        if n_changes:
            still = change / n_changes < self.settings.adaptive_change
            self._stretch = min(2 * self._stretch, LONGEST) if still else max(1, self._stretch // 2)
        self._last_factors = self._step
        self._warn_of_silent_layers({name for name, _ in seen})

    def _average_corrections(self, moments: dict[Key, Moments]) -> None:
        """Let the eigenvalues follow what was seen in the present eigenbases."""
        keys = [(name, CORRECTION) for name in self._bases]
        if not keys:
            return
        counts = self._exchange.count(moments, keys, self._device)
        for key, count in zip(keys, counts, strict=True):
            S = self._corrections[key[0]]
            found = moments.pop(key, None)
            total = found.total if found else torch.zeros(S.numel(), dtype=torch.float64, device=S.device)
            self._communicator.all_reduce(total)
            if count and is_finite(total):
                mean = (total / count).view_as(S).to(S.dtype)
                S.lerp_(mean, 1 - self.settings.factor_decay)

    def _invert_factors(self) -> None:
        complete = [
            name for name in self._layers if all((name, m) in self._known for m in self._layers[name].shapes)
        ]
        dampings = self._dampings()
        n_retries = n_stale = 0
        shared = []
        for name in complete:
            if self.settings.ekfac and isinstance(self._layers[name], KroneckerProduct):
                n_stale += self._turn_bases(name)
                continue
            for key in ((name, matrix) for matrix in self._layers[name].shapes):
                if name not in self._placement.preconditioners:
                    shared.append(key)
                if not self._exchange.is_mine(key):
                    continue
                inverse = damped_inverse(self._factors[key], dampings[key])
                if inverse is None:
                    inverse = damped_inverse(self._factors[key], RETRY * dampings[key])
                    n_retries += self._speaks_for(key) and inverse is not None
                    n_stale += self._speaks_for(key) and inverse is None
                if inverse is None:
                    inverse = self._inverses.get(key, _identity_like(self._factors[key]))
                self._inverses[key] = inverse
        self._exchange.share(self._inverses, shared, like=self._like)
        n_retries, n_stale = (round(n) for n in self._sum([n_retries, n_stale]))
        self.n_retries += n_retries
        self.n_stale += n_stale
        self._ready.update(complete)
        self._last_inverses = self._step

    def _turn_bases(self, name: str) -> int:
        """Find new eigenbases of a layer and carry its eigenvalues over; return how many failures there were."""
        found = {m: eigenbasis(self._factors[name, m]) for m in self._layers[name].shapes}
        new = {(name, m): basis[0] for m, basis in found.items() if basis is not None}
        if len(new) < len(found):
            failed = sum(self._speaks_for((name, m)) for m, basis in found.items() if basis is None)
            if name not in self._bases:
                identities = {(name, m): _identity_like(self._factors[name, m]) for m in found}
                self._bases[name] = self._in_order(name, identities)
                self._corrections[name] = self._ones(name)
            return failed
        bases = self._in_order(name, new)
        if name in self._bases:
            self._corrections[name] = turn_eigenvalues(self._corrections[name], self._bases[name], bases)
        else:
            values = {(name, m): basis[1][..., None] for m, basis in found.items() if basis is not None}
            for_A, for_G = (torch.cat(parts, dim=-2) for parts in self._in_order(name, values))
            self._corrections[name] = for_G @ for_A.mT
        self._bases[name] = bases
        return 0

    def _ones(self, name: str) -> Tensor:
        layer = self._layers[name]
        assert isinstance(layer, KroneckerProduct)
        rows, columns = (
            sum(s[-1] for s in shapes.values()) for shapes in (layer.outputs_shapes, layer.inputs_shapes)
        )
        stack = (layer.groups,) if layer.groups > 1 else ()
        return self._like.new_ones(*stack, rows, columns)

    def _in_order(self, name: str, matrices: Mapping[Key, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Matrices of a Kronecker product: blocks of A, and of G."""
        layer = self._layers[name]
        assert isinstance(layer, KroneckerProduct)
        return (
            [matrices[name, m] for m in layer.inputs_shapes],
            [matrices[name, m] for m in layer.outputs_shapes],
        )

    def _dampings(self) -> dict[Key, float]:
        """What to add to the diagonal of every known matrix; a layer's parts may lie on several processes."""
        keys = list(self._exchange.shapes)
        traces = [
            float(self._factors[key].diagonal(dim1=-2, dim2=-1).mean()) if self._reports(key) else 0.0
            for key in keys
        ]
        means = dict(zip(keys, self._sum(traces), strict=True))
        return {
            (name, matrix): damping
            for name, layer in self._layers.items()
            for matrix, damping in layer.dampings(
                {m: means[name, m] for m in layer.shapes}, self.damping
            ).items()
        }

    def _precondition(self, lr: float) -> None:
        gradients: dict[str, Tensor] = {}
        natural: dict[str, Tensor] = {}
        for name, layer in self._layers.items():
            gradient = layer.gradient() if name in self._ready else None
            if gradient is None:
                continue
            gradients[name] = gradient
            if self._placement.preconditioners.get(name, self._communicator.rank) == self._communicator.rank:
                natural[name] = self._natural(name, layer, gradient)
        if not gradients:
            return
        self._share_gradients(natural, gradients)
        by_layer = torch.stack([torch.sum(natural[name] * g) for name, g in gradients.items()]).tolist()
        for name, product in zip(gradients, by_layer, strict=True):
            if not math.isfinite(product):
                raise ConvergenceError(
                    f"the natural gradient of layer {name} is not finite at step {self._step + 1}; "
                    "raise damping or lower lr"
                )
        self.step_size = lr**2 * abs(sum(by_layer))
        scale = 1.0
        if self.settings.kl_clip > 0:
            scale = min(1.0, math.sqrt(self.settings.kl_clip / (self.step_size + 1e-30)))
        self.step_size *= scale**2
        for name in gradients:
            self._layers[name].set_gradient(natural[name].mul_(scale))

    def _natural(self, name: str, layer: Structure, gradient: Tensor) -> Tensor:
        if name not in self._bases:
            return layer.natural(gradient, {m: self._inverses[name, m] for m in layer.shapes})
        basis_A, basis_G = self._bases[name]
        turned = multiply_right(multiply_left([Q.mT for Q in basis_G], gradient), basis_A)
        turned = turned / (self._corrections[name] + self.damping)
        return multiply_right(multiply_left(basis_G, turned), [Q.mT for Q in basis_A])

    def _share_gradients(self, natural: dict[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        """Send natural gradients that one process has computed to the others."""
        for owner in range(self._communicator.size):
            names = [name for name in gradients if self._placement.preconditioners.get(name) == owner]
            if not names or self._communicator.size == 1:
                continue
            source = natural if owner == self._communicator.rank else gradients
            message = torch.cat([source[name].flatten() for name in names])
            self._exchange.broadcast(message, owner)
            parts = torch.split(message, [gradients[name].numel() for name in names])
            natural |= {name: part.view_as(gradients[name]) for name, part in zip(names, parts, strict=True)}

    def _speaks_for(self, key: Key) -> bool:
        """Whether it is this process that counts the failures of a matrix."""
        return self._exchange.is_mine(key) and (
            self._exchange.owners is not None or self._communicator.rank == 0
        )

    def _sum(self, numbers: Sequence[float]) -> list[float]:
        """Add up numbers over the processes."""
        if self._communicator.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        self._communicator.all_reduce(total)
        return total.tolist()

    def _warn_of_silent_layers(self, seen: set[str]) -> None:
        seen = seen | self._warned | {name for name, _ in self._known}
        silent = [name for name in self._layers if name not in seen]
        self._warned.update(silent)
        if silent and self._communicator.rank == 0:
            warnings.warn(
                f"K-FAC saw no pass through layer {', '.join(silent)}; a layer that is used otherwise than by "
                "calling it keeps its gradient as it is",
                stacklevel=3,
            )


def _identity_like(factor: Tensor) -> Tensor:
    return torch.eye(factor.shape[-1]).to(factor).expand_as(factor).clone()
