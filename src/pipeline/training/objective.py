"""The gradient of the smoothed objective over one batch, shared among processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.runtime.communicator import Communicator
from pipeline.training.diagnosis import blame_layer
from pipeline.training.halves import Halves
from pipeline.training.kfac import KFAC
from pipeline.training.randomness import Purpose, generator
from pipeline.training.sampling import Samples, cut, n_pieces
from pipeline.training.smoothing import Smoothing

# Scales of half-precision losses, which keep small gradients from underflow. Each step starts with the first scale and
# takes the next one if gradients overflow, so there is no state to keep.
LOSS_SCALES = (2.0**10, 2.0**4, 2.0**-2)


class Objective:
    """The mean cross-entropy of a batch under smoothings, and its gradient.

    A batch is cut into micro-batches, which are dealt to the processes in turn. The loss of a micro-batch is a sum over
    its samples, so gradients and Kronecker statistics are those of single samples; the results of all processes are
    summed once per batch and divided by the number of samples. Sums over micro-batches are taken in double precision:
    their order, which depends on the number of processes, then rarely changes the single-precision mean. Training is
    chaotic: with sums in single precision, weights drift apart by 1e-4 of their size within 20 steps.

    Running statistics of batch normalization move once per batch, by the mean of the moves that its
    micro-batches would make from the same start.

    Args:
        model: The network, whose gradients and running statistics are written.
        training: All training samples, on every process.
        batches: The indices of the samples of each step, the same on all processes.
        n_classes: Number of the network's scores for a sample.
        smoothing: Smoothings and augmentations, applied in order.
        micro_batch: Largest number of samples in one pass.
        seed: Seed of the random numbers of smoothings.
        communicator: The processes that train together.
        kfac: The preconditioner. It gets loss scales and scores, and is paused during passes that only explore.
        precision: Type of activations and their gradients, one of `PRECISIONS`; weights keep theirs.
        in_halves: Whether `halves` is wanted. A batch is then cut into at least two micro-batches.

    Attributes:
        halves: Difference between the gradients of the two halves of the last batch, if wanted. The first half of the
            micro-batches is the first half of the batch.
    """

    def __init__(
        self,
        model: nn.Module,
        training: Samples,
        batches: Callable[[int], Tensor],
        *,
        n_classes: int,
        smoothing: Sequence[Smoothing],
        micro_batch: int,
        seed: int,
        communicator: Communicator,
        kfac: KFAC | None = None,
        precision: str = "float32",
        in_halves: bool = False,
    ) -> None:
        self.halves: Halves | None = None
        self._in_halves = in_halves
        self._model = model
        self._training = training
        self._batches = batches
        self._n_classes = n_classes
        self._smoothing = tuple(smoothing)
        self._micro_batch = micro_batch
        self._seed = seed
        self._communicator = communicator
        self._kfac = kfac
        self._dtype = getattr(torch, precision)
        self._device = training.labels.device
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        tensors = [*self._weights.values(), *self._statistics]
        self._n_sums = 1 + sum(tensor.numel() for tensor in tensors)
        # Counters of batch normalizations; other integer buffers, such as indices and masks, are left to the model.
        counts = [getattr(module, "num_batches_tracked", None) for module in model.modules()]
        self._counters = [count for count in counts if isinstance(count, Tensor)]

    def backward(self, step: int, *, done: float) -> float:
        """Compute the gradient of a step into the parameters' `grad`, and return its loss.

        Args:
            step: Number of the step, from 0; it determines samples and random numbers.
            done: The part of training that is done, in [0, 1).

        Raises:
            ConvergenceError: If loss or gradient are not finite; step and layer are named.
        """
        self._model.train()
        starts = [buffer.clone() for buffer in self._statistics]
        counts = [buffer.clone() for buffer in self._counters]
        n = len(self._batches(step))
        scales = LOSS_SCALES if self._dtype == torch.float16 else (1.0,)
        for scale in scales:
            both = self._sums(step, done, starts, scale)
            sums = both.sum(dim=0) / n
            if bool(sums.isfinite().all()):
                break
            if scale != scales[-1] and self._kfac is not None:
                self._kfac.discard()
        else:
            blame_layer(
                self._model,
                lambda: [
                    self._pass(piece, step=step, number=i, done=done, scale=scales[-1])
                    for i, piece in self._my_micro_batches(step)
                ],
                step=step,
                communicator=self._communicator,
            )
        gradients = self._gradients()
        sizes = [tensor.numel() for tensor in (*gradients, *self._statistics)]
        loss, *means = torch.split(sums, [1, *sizes])
        _copy(means[: len(gradients)], gradients)
        if self._in_halves:
            self.halves = self._apart(step, both)
        for buffer, move in zip(self._statistics, means[len(gradients) :], strict=True):
            buffer.add_(move.view_as(buffer))
        _copy([count + 1 for count in counts], self._counters)
        return float(loss)

    def n_samples(self, step: int) -> int:
        """Return the size of a step's batch."""
        return len(self._batches(step))

    @torch.no_grad()
    def loss(self, step: int, *, done: float) -> float:
        """Return the loss of a step's batch at the present weights, under the same noise and mixtures."""
        self._model.train()
        kept = [buffer.clone() for buffer in (*self._statistics, *self._counters)]
        total = torch.zeros(1, dtype=torch.float64, device=self._device)
        for number, indices in self._my_micro_batches(step):
            images, targets, displacements = self._smoothed(indices, step=step, number=number, done=done)
            with displaced(self._weights, displacements):
                total += self._losses(images, targets)[0].sum()
        _copy(kept, [*self._statistics, *self._counters])
        self._communicator.all_reduce(total)
        return float(total) / len(self._batches(step))

    def _sums(self, step: int, done: float, starts: Sequence[Tensor], scale: float) -> Tensor:
        """Sum loss, gradients and moves of running statistics over all micro-batches of all processes.

        The result has one row for each half of the batch if `in_halves`, else one row for all of it.
        """
        n_halves = 2 if self._in_halves else 1
        sums = torch.zeros(n_halves, self._n_sums, dtype=torch.float64, device=self._device)
        for number, indices in self._my_micro_batches(step):
            loss = self._pass(indices, step=step, number=number, done=done, scale=scale)
            moves = [buffer - start for buffer, start in zip(self._statistics, starts, strict=True)]
            weighted = [move * len(indices) for move in moves]
            found = [tensor.reshape(-1) for tensor in (loss, *self._gradients(), *weighted)]
            if scale != 1:
                n_gradients = 1 + len(self._weights)
                found[1:n_gradients] = [gradient / scale for gradient in found[1:n_gradients]]
            sums[number * n_halves // self._n_micro_batches(step)] += torch.cat(found)
            _copy(starts, self._statistics)
        self._communicator.all_reduce(sums)
        return sums

    def _apart(self, step: int, sums: Tensor) -> Halves:
        """Return the difference between the two halves from their sums."""
        n_pieces = self._n_micro_batches(step)
        sizes = [0, 0]
        for number, piece in enumerate(cut(len(self._batches(step)), n_pieces)):
            sizes[number * 2 // n_pieces] += piece.stop - piece.start
        first, second = (row / max(size, 1) for row, size in zip(sums, sizes, strict=True))
        lengths = [p.numel() for p in self._weights.values()]
        parts = torch.split((first - second)[1 : 1 + sum(lengths)], lengths)
        difference = {
            name: part.view_as(p) for part, (name, p) in zip(parts, self._weights.items(), strict=True)
        }
        return Halves((sizes[0], sizes[1]), difference)

    def _gradients(self) -> list[Tensor]:
        """Return all gradients; those of unused weights are zero."""
        for p in self._weights.values():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        return [p.grad for p in self._weights.values() if p.grad is not None]

    def _my_micro_batches(self, step: int) -> list[tuple[int, Tensor]]:
        mine = range(self._communicator.rank, self._n_micro_batches(step), self._communicator.size)
        return [(number, self._indices(step, number)) for number in mine]

    def _n_micro_batches(self, step: int) -> int:
        n = len(self._batches(step))
        return max(n_pieces(n, self._micro_batch), min(n, 2) if self._in_halves else 1)

    def _indices(self, step: int, number: int) -> Tensor:
        indices = self._batches(step)
        piece = cut(len(indices), self._n_micro_batches(step))[number]
        return indices[piece].to(self._device)

    def _raw(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        images = self._training.images[indices]
        return images, functional.one_hot(self._training.labels[indices], self._n_classes).to(images.dtype)

    def _smoothed(
        self, indices: Tensor, *, step: int, number: int, done: float
    ) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
        """Return the smoothed images and targets of a micro-batch, and displacements of the weights."""

        def former(age: int) -> tuple[Tensor, Tensor] | None:
            if age > step or number >= self._n_micro_batches(step - age):
                return None
            return self._raw(self._indices(step - age, number))

        images, targets = self._raw(indices)
        pair, second = divmod(number, 2)
        displacements = []
        for i, smoothing in enumerate(self._smoothing):
            rng = generator(self._seed, Purpose.BATCH, step, number, i)
            images, targets = smoothing.blend(images, targets, rng, former)
            rng = generator(self._seed, Purpose.WEIGHTS, step, pair, i)
            displacements.append(smoothing.displace(self._weights, rng, sign=-1 if second else 1, done=done))
        return images, targets, displacements

    def _pass(self, indices: Tensor, *, step: int, number: int, done: float, scale: float) -> Tensor:
        """Compute the gradient of the summed loss of one micro-batch into `grad`; return that loss."""
        images, targets, displacements = self._smoothed(indices, step=step, number=number, done=done)
        with displaced(self._weights, displacements):
            climbs = [
                self._climb(
                    smoothing, images, targets, generator(self._seed, Purpose.EXPLORATION, step, number, i)
                )
                for i, smoothing in enumerate(self._smoothing)
                if smoothing.EXPLORES
            ]
            with displaced(self._weights, climbs):
                self._model.zero_grad(set_to_none=True)
                losses, scores = self._losses(images, targets)
                if self._kfac is not None:
                    self._kfac.set_loss_scale(scale)
                    self._kfac.sample_fisher(scores, number)
                loss = losses.sum()
                (loss * scale if scale != 1 else loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _climb(
        self, smoothing: Smoothing, images: Tensor, targets: Tensor, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Return a smoothing's displacement of the weights from an extra pass, which leaves no trace."""
        kept = [buffer.clone() for buffer in (*self._statistics, *self._counters)]
        with self._kfac.paused() if self._kfac is not None else nullcontext():
            explored = smoothing.explore(self._losses(images, targets)[0], rng)
            gradients = torch.autograd.grad(explored, list(self._weights.values()), allow_unused=True)
        _copy(kept, [*self._statistics, *self._counters])
        found = {name: g for name, g in zip(self._weights, gradients, strict=True) if g is not None}
        return smoothing.climb({name: self._weights[name].detach() for name in found}, found)

    def _losses(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Pass a micro-batch through the network; return each sample's loss, and the scores."""
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            scores = self._model(images)
        full = scores.float() if scores.dtype.itemsize < 4 else scores
        return functional.cross_entropy(full, targets, reduction="none"), scores


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source.view_as(target))


@contextmanager
def displaced(weights: Mapping[str, Tensor], displacements: Sequence[Mapping[str, Tensor]]) -> Iterator[None]:
    """Add displacements to the weights within the context; afterwards the weights are restored bit for bit."""
    names = {name for displacement in displacements for name in displacement}
    originals = {name: weights[name].detach().clone() for name in names}
    with torch.no_grad():
        for displacement in displacements:
            for name, change in displacement.items():
                weights[name].add_(change)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, original in originals.items():
                weights[name].copy_(original)
