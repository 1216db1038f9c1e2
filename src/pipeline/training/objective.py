"""The gradient of the smoothed objective over one batch, shared among processes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.runtime.communicator import Communicator
from pipeline.training.diagnosis import blame_layer
from pipeline.training.randomness import Purpose, generator
from pipeline.training.sampling import Samples, cut, n_pieces
from pipeline.training.smoothing import Smoothing


class Objective:
    """The mean cross-entropy of a batch under smoothings, and its gradient.

    A batch is cut into micro-batches, which are dealt to the processes in turn. Each passes through the
    network as a sum over samples, so gradients and Kronecker statistics are those of single samples; what
    all processes found is added up once per batch and divided by the number of samples. Sums over
    micro-batches are taken in double precision: then their order, which is all that differs between numbers
    of processes, shows in the single-precision mean only where it rounds the other way by chance. Training
    is chaotic; sums in single precision drift apart by 1e-4 of the weights within 20 steps.

    Running statistics of batch normalization move once per batch, by the mean of the moves that its
    micro-batches would make from the same start.

    Args:
        model: Its gradients and running statistics are written.
        training: All training samples, on every process.
        n_classes: How many scores the network gives.
        seed: Of the random numbers of smoothings.
    """

    def __init__(
        self,
        model: nn.Module,
        training: Samples,
        *,
        n_classes: int,
        smoothing: Sequence[Smoothing],
        micro_batch: int,
        seed: int,
        communicator: Communicator,
    ) -> None:
        self._model = model
        self._training = training
        self._n_classes = n_classes
        self._smoothing = tuple(smoothing)
        self._micro_batch = micro_batch
        self._seed = seed
        self._communicator = communicator
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        tensors = [*self._weights.values(), *self._statistics]
        self._n_sums = 1 + sum(tensor.numel() for tensor in tensors)
        # ASSUME: integer buffers count passes, as those of batch normalization do.
        self._counters = [buffer for buffer in model.buffers() if not buffer.is_floating_point()]

    def backward(self, indices: Tensor, *, step: int, done: float) -> float:
        """Compute the gradient over the samples `indices` into the parameters' `grad`, and return the loss.

        Args:
            indices: Shape (batch size,), the same on all processes.
            step: From 0; the position of the random numbers.
            done: The part of training that is done, in [0, 1).

        Raises:
            ConvergenceError: If loss or gradient are not finite; step and layer are named.
        """
        self._model.train()
        starts = [buffer.clone() for buffer in self._statistics]
        counts = [buffer.clone() for buffer in self._counters]
        mine = self._my_micro_batches(len(indices))
        sums = torch.zeros(self._n_sums, dtype=torch.float64, device=indices.device)
        for number, piece in mine:
            loss = self._pass(indices[piece], step=step, number=number, done=done)
            moves = [buffer - start for buffer, start in zip(self._statistics, starts, strict=True)]
            weighted = [move * (piece.stop - piece.start) for move in moves]
            sums += torch.cat([tensor.reshape(-1) for tensor in (loss, *self._gradients(), *weighted)])
            _copy(starts, self._statistics)
        self._communicator.all_reduce(sums)
        sums /= len(indices)
        if not bool(sums.isfinite().all()):
            blame_layer(
                self._model,
                lambda: [self._pass(indices[piece], step=step, number=i, done=done) for i, piece in mine],
                step=step,
                communicator=self._communicator,
            )
        gradients = self._gradients()
        sizes = [tensor.numel() for tensor in (*gradients, *self._statistics)]
        loss, *means = torch.split(sums, [1, *sizes])
        _copy(means[: len(gradients)], gradients)
        for buffer, move in zip(self._statistics, means[len(gradients) :], strict=True):
            buffer.add_(move.view_as(buffer))
        _copy([count + 1 for count in counts], self._counters)
        return float(loss)

    def _gradients(self) -> list[Tensor]:
        """All gradients; zero where a weight was not used."""
        for p in self._weights.values():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        return [p.grad for p in self._weights.values() if p.grad is not None]

    def _my_micro_batches(self, n: int) -> list[tuple[int, slice]]:
        pieces = cut(n, n_pieces(n, self._micro_batch))
        return list(enumerate(pieces))[self._communicator.rank :: self._communicator.size]

    def _pass(self, indices: Tensor, *, step: int, number: int, done: float) -> Tensor:
        """Compute the gradient of the summed loss of one micro-batch into `grad`; return that loss."""
        self._model.zero_grad(set_to_none=True)
        images = self._training.images[indices]
        targets = functional.one_hot(self._training.labels[indices], self._n_classes).to(images.dtype)
        pair, second = divmod(number, 2)
        displacements = []
        for i, smoothing in enumerate(self._smoothing):
            rng = generator(self._seed, Purpose.BATCH, step, number, i)
            images, targets = smoothing.blend(images, targets, rng)
            rng = generator(self._seed, Purpose.WEIGHTS, step, pair, i)
            displacements.append(smoothing.displace(self._weights, rng, sign=-1 if second else 1, done=done))
        with _displaced(self._weights, displacements):
            loss = functional.cross_entropy(self._model(images), targets, reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source.view_as(target))


@contextmanager
def _displaced(
    weights: Mapping[str, Tensor], displacements: Sequence[Mapping[str, Tensor]]
) -> Iterator[None]:
    """Add displacements to the weights for a while; afterwards they have their old bits."""
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
