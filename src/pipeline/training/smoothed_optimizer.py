"""Smoothings as wrappers of any torch optimizer and of any data loader, for training loops of your own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.utils.data import default_collate

from pipeline.training.average import Average
from pipeline.training.objective import displaced
from pipeline.training.outer_optimizer import OuterOptimizer, require_own
from pipeline.training.randomness import Purpose, generator
from pipeline.training.smoothing import RunningMixup, Smoothing


class SmoothedOptimizer(OuterOptimizer):
    """Let an optimizer step with the gradient of a smoothed objective::

        optimizer = SmoothedOptimizer(model, inner, [WeightNoise(0.2), SAM(0.1), WeightAverage(0.5)], n_steps=1000)

        for images, labels in loader:

            def closure():
                optimizer.zero_grad()
                loss = cross_entropy(model(images), labels)
                loss.backward()
                return loss

            optimizer.step(closure)

        optimizer.settle()

    Each step displaces the weights as the smoothings say, lets the closure compute loss and gradient there, restores
    the weights bit for bit, and lets the inner optimizer step. Smoothings that explore (SAM) cost one more call of the
    closure each, which a preconditioner and running statistics ignore. Weight noise is drawn in antithetic pairs of
    steps. Every process draws the same noise, as replicas of `DistributedDataParallel` must. Schedulers take it like
    any torch optimizer. With a `torch.amp.GradScaler` pass `scaler`, let the closure call
    `scaler.scale(loss).backward()`, and call `step(closure)` and `scaler.update()`, but not `scaler.step`, which takes
    no closure.

    Args:
        model: The network.
        optimizer: The inner optimizer, which may be a `KFACOptimizer`.
        smoothing: Smoothings other than gradient noise and those of images or targets; `MixupCollate` mixes samples.
        n_steps: Number of steps of the whole training, to which annealing and averages refer.
        scaler: The gradient scaler by which the closure multiplies the loss.
        seed: Seed of the noise.

    Attributes:
        inner: The inner optimizer.
        n_done: Number of steps done.

    Raises:
        ValueError: If a smoothing needs the samples or their single losses, if the optimizer needs several passes per
            step or steps no parameter of the network, or if `n_steps` is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        smoothing: Sequence[Smoothing],
        *,
        n_steps: int,
        scaler: torch.amp.GradScaler | None = None,
        seed: int = 0,
    ) -> None:
        for each in smoothing:
            if type(each).blend is not Smoothing.blend or type(each).explore is not Smoothing.explore:
                raise ValueError(
                    f"{type(each).__name__} needs samples or their single losses, which an optimizer does not see; mix "
                    "samples by MixupCollate, or smooth labels in the loss"
                )
        if n_steps < 1:
            raise ValueError(f"n_steps must be the number of steps of the whole training, not {n_steps}")
        super().__init__(optimizer)
        require_own(model, self.parameters())
        self._scaler = scaler
        self.n_done = 0
        self._model = model
        self._smoothing = [each.within(n_steps) for each in smoothing]
        self._n_steps = n_steps
        self._seed = seed
        self._average = Average(model)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step by the smoothed gradient; return what the last call of the closure returned.

        Raises:
            ValueError: If there is no closure.
        """
        if closure is None:
            raise ValueError(
                "SmoothedOptimizer computes gradients at other weights: pass step a closure that sets gradients to "
                "zero, computes the loss, calls backward and returns the loss; a gradient scaler goes to scaler="
            )
        stepped = {id(p) for p in self.parameters()}
        weights = {
            name: p for name, p in self._model.named_parameters() if p.requires_grad and id(p) in stepped
        }
        done = self.n_done / self._n_steps
        pair, second = divmod(self.n_done, 2)
        displacements = [
            smoothing.displace(
                weights,
                generator(self._seed, Purpose.WEIGHTS, pair, 0, i),
                sign=-1 if second else 1,
                done=done,
            )
            for i, smoothing in enumerate(self._smoothing)
        ]
        with torch.enable_grad(), displaced(weights, displacements):
            climbs = [self._climb(each, weights, closure) for each in self._smoothing if each.EXPLORES]
            with displaced(weights, climbs):
                loss = closure()
        if not self._step_inner():
            return loss
        self.n_done += 1
        if any(each.averages(self.n_done / self._n_steps) for each in self._smoothing):
            self._average.add()
        return loss

    def _step_inner(self) -> bool:
        """Let the optimizer step; return False if a scaler skips the step because gradients overflowed."""
        if self._scaler is None:
            self.inner.step()
            return True
        stepped: list[bool] = []

        def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            # Some optimizers are called even then, with `found_inf` set.
            stepped.append(not bool(getattr(optimizer, "found_inf", False)))

        hook = self.inner.register_step_post_hook(note)
        try:
            self._scaler.step(self.inner)
        finally:
            hook.remove()
        return any(stepped)

    def shown(self) -> AbstractContextManager[None]:
        """Give the network the averaged weights within the context, if a smoothing averages."""
        return self._average.shown()

    def settle(self) -> None:
        """Give the network the averaged weights for good, if a smoothing averages."""
        self._average.settle()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on, the optimizer's state included."""
        return {
            "inner": self.inner.state_dict(),
            "n_done": self.n_done,
            "average": self._average.state_dict(),
            "n_averaged": self._average.n_added,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.inner.load_state_dict(state["inner"])
        self.n_done = state["n_done"]
        self._average.load_state_dict(state["average"], state["n_averaged"])

    def _climb(
        self, smoothing: Smoothing, weights: Mapping[str, nn.Parameter], closure: Callable[[], Any]
    ) -> dict[str, Tensor]:
        kept = [buffer.clone() for buffer in self._model.buffers()]
        with self._unseen():
            closure()
        for buffer, before in zip(self._model.buffers(), kept, strict=True):
            buffer.copy_(before)
        scale = 1.0 if self._scaler is None else self._scaler.get_scale()
        gradients = {name: p.grad for name, p in weights.items() if p.grad is not None}
        if not gradients:
            raise ValueError(
                "the closure left no gradients of the optimizer's parameters: it must call backward on the loss, and "
                "set gradients to zero before, not after"
            )
        # What is maximized is worst where it is lowest.
        turned = {id(p) for group in self.param_groups if group.get("maximize") for p in group["params"]}
        found = {
            name: (g.to_dense() if g.is_sparse else g) / (-scale if id(weights[name]) in turned else scale)
            for name, g in gradients.items()
        }
        if self._scaler is not None and not all(bool(g.isfinite().all()) for g in found.values()):
            return {}  # the scale is too large; the scaler will skip the step
        return smoothing.climb({name: weights[name].detach() for name in found}, found)

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """Hide a pass from a preconditioner."""
        kfac = getattr(self.inner, "kfac", None)
        if kfac is None:
            yield
            return
        with kfac.paused():
            yield


class MixupCollate:
    """Collate samples of a `DataLoader` to mixed images and class probabilities, for `cross_entropy`.

    Args:
        smoothing: How to mix; `RunningMixup` is refused, because a worker does not see former batches.
        n_classes: Number of classes of the labels.
        seed: Seed of the mixtures; every batch of every epoch draws anew.
        collate: Makes tensors of a list of samples.

    Raises:
        ValueError: If the smoothing does not mix samples, or mixes with former batches.
        TypeError: When called, if a sample is not a floating-point image and the number of a class. ValueError if there
            is no such class.
    """

    def __init__(
        self,
        smoothing: Smoothing,
        n_classes: int,
        *,
        seed: int = 0,
        collate: Callable[[Any], Any] = default_collate,
    ) -> None:
        if type(smoothing).blend is Smoothing.blend:
            raise ValueError(f"{type(smoothing).__name__} does not mix samples; give it to SmoothedOptimizer")
        if isinstance(smoothing, RunningMixup):
            raise ValueError(
                "RunningMixup needs former batches, which a collate function does not see; use Mixup"
            )
        self.smoothing = smoothing
        self.n_classes = n_classes
        self.seed = seed
        self._collate = collate

    def __call__(self, samples: Sequence[Any]) -> tuple[Tensor, Tensor]:
        batch = self._collate(samples)
        if not (
            isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)
        ):
            raise TypeError(
                "MixupCollate mixes samples of an image and a label; pass collate, which makes a tensor of each"
            )
        images, labels = batch
        if labels.is_floating_point() or labels.dim() != 1:
            raise TypeError(
                f"MixupCollate needs the number of a class as the label of each sample, not {labels.dtype} of shape "
                f"{tuple(labels.shape)}"
            )
        if not images.is_floating_point():
            raise TypeError(
                f"MixupCollate mixes floating-point images, not {images.dtype}; convert them in the data set"
            )
        labels = labels.long()
        outside = labels[(labels < 0) | (labels >= self.n_classes)]
        if len(outside):
            raise ValueError(
                f"label {int(outside[0])} is no class from 0 to {self.n_classes - 1}; set n_classes, and leave samples "
                "that the loss is to ignore out of the data set, because a mixture cannot ignore one of two samples"
            )
        targets = one_hot(labels, self.n_classes).to(images.dtype)
        # Workers of a loader have torch's generator seeded by epoch and worker, so batches differ.
        position = int(torch.randint(2**31, ()))
        rng = generator(self.seed, Purpose.BATCH, position)
        return self.smoothing.blend(images, targets, rng, lambda _: None)
