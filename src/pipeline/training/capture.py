"""Hooks that watch layers work: they collect what the Kronecker factors are made of during forward and
backward."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pipeline.training.functions import Watching
from pipeline.training.hooks import Hook, forget_compiled_code, uncompiled
from pipeline.training.kronecker import rotated_second_moment
from pipeline.training.layers import Layers
from pipeline.training.loss_terms import Terms, learn_terms
from pipeline.training.structures import KroneckerProduct, Structure, working_type

Key = tuple[str, str]  # a layer's name, and that of one of its matrices
Loss = Literal["learned", "mean", "sum"]

CORRECTION = "S"  # second moments of gradients in the eigenbasis, not a symmetric matrix


@dataclass(frozen=True)
class Moments:
    """Sums over samples of one matrix.

    Attributes:
        total: float64 where there were several passes: their sum then hardly depends on their order.
        n: What to divide the sum by: the number of samples, or for inputs of uses.
    """

    total: Tensor
    n: float


@dataclass
class _Pass:
    """What one backward pass has shown so far; gradients are as they came.

    Attributes:
        scale: What the loss was multiplied by.
        scores: The network's outputs with their gradients: each call of the network adds one.
        n_rows: How many samples a call of the network had; None where only parts of it were called.
        moments: Sums of output gradients' moments.
        rows: How many rows of each layer's calls were looked at, how many there were, and those
            of the first call.
        sums: For each layer, sums over the uses of each sample: of inputs, of output gradients, and how many uses.
        terms: The terms of the loss, where they are known beforehand.
    """

    scale: float
    scores: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    n_rows: int | None = None
    moments: dict[Key, Tensor] = field(default_factory=dict)
    rows: dict[str, list[int]] = field(default_factory=dict)
    sums: dict[str, tuple[KroneckerProduct, Tensor, Tensor, int]] = field(default_factory=dict)
    terms: Terms | None = None


@dataclass(frozen=True)
class _Use:
    """A call of a layer, between forward and backward."""

    name: str
    structure: Structure
    inputs: Tensor
    n: int
    n_rows: int
    turned: bool  # positions came before samples
    alone: bool  # one sample without a dimension of its own
    rows: slice | None = None  # of the weight, where only a part of it was applied


class Capture:
    """Watch layers of a network.

    A pass is a call of `backward`. All uses of a layer in one pass belong to the same samples.

    Args:
        model: Hooks are added to it and its layers; `remove` takes them away. Copies of it have none.
        layers: The layers to be watched.
        active: Asked at every forward pass whether statistics are wanted.
        sample_fraction: Share of each pass's samples, the first ones, that is looked at.
        loss: How the gradients of single samples are found: by what `learn_terms` says of the network's output, else
            and with "mean" as parts of a mean over the samples of all passes between two calls of `take`; with "sum"
            as they come.
        sampled: Whether output gradients come from `sample` instead of `backward`.
        reduced: Whether the uses of a sample are added up before their moments are taken.
        bases: Eigenbases of A and G of each layer, blocks in order, in which squares of gradients are wanted.

    Attributes:
        paused: Whether passes go unseen.
        loss_scale: What the loss of `backward` was multiplied by, beside what is learned.
        terms: What was found of the last pass.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers,
        *,
        active: Callable[[], bool],
        sample_fraction: float,
        loss: Loss,
        sampled: bool,
        reduced: bool,
        bases: Mapping[str, tuple[list[Tensor], list[Tensor]]],
    ) -> None:
        if loss not in get_args(Loss):
            raise ValueError(f"loss must be one of {', '.join(get_args(Loss))}, not {loss!r}")
        self.paused = False
        self.loss_scale = 1.0
        self.terms: Terms | None = None
        self.watches_functions = layers.by_function
        self._layers = layers
        self._active = active
        self._sample_fraction = sample_fraction
        self._loss = loss
        self._sampled = sampled
        self._reduced = reduced
        self._bases = bases
        self._inputs: dict[Key, Moments] = {}
        self._gradients: dict[Key, Moments] = {}
        self._unscaled: dict[Key, Moments] = {}  # of passes whose share in the mean is not known yet
        self._n_unscaled = 0
        self._pass: _Pass | None = None
        self._pass_id = -1
        self._depth = 0
        self._n_rows: int | None = None
        self._told: Tensor | None = None
        self._trains = False
        self._alone = False
        self._modes: list[Watching] = []
        self._uses: list[tuple[_Use, Tensor]] = []
        self._handles = [
            module.register_forward_hook(
                Hook(module, partial(self.watch, name=name, structure=structure)), with_kwargs=True
            )
            for module, name, structure in layers.calls
        ]
        self._handles.append(model.register_forward_pre_hook(Hook(model, self.enter), with_kwargs=True))
        self._handles.append(
            model.register_forward_hook(Hook(model, self.leave), with_kwargs=True, always_call=True)
        )
        forget_compiled_code()

    def take(self, *, scale: float = 1.0) -> dict[Key, Moments]:
        """Return what was collected since the last call; layers that were not used are missing.

        Args:
            scale: What the losses of all passes were multiplied by, beside `loss_scale`, where it is not learned.
        """
        self._close()
        found = {**self._inputs, **self._gradients}
        for key, moments in self._unscaled.items():
            # ASSUME: what was accumulated is a mean over the passes, so each was divided by their number.
            moments.total.mul_((self._n_unscaled / scale) ** 2)
            other = found.get(key)
            found[key] = (
                moments
                if other is None
                else Moments(other.total.double().add_(moments.total), other.n + moments.n)
            )
        self.discard()
        return found

    @property
    def learns_scale(self) -> bool:
        """Whether all passes since the last call of `take` told their scale."""
        self._close()
        return not self._unscaled

    def discard(self) -> None:
        """Forget what was collected since the last call of `take`."""
        self._inputs, self._gradients, self._unscaled = {}, {}, {}
        self._n_unscaled = 0
        self._pass, self._pass_id = None, -1
        self._uses = []

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        forget_compiled_code()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Look away for a while."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    @uncompiled
    def sample(self, scores: Tensor, uniform: Tensor) -> None:
        """Take output gradients of the log-likelihood of classes drawn from the prediction itself.

        Costs a backward pass through activations only: no gradient of a weight is computed.

        Args:
            scores: The scores of the pass under way, shape (n, n_classes).
            uniform: Random numbers in [0, 1), shape (n,).
        """
        uses, self._uses = self._uses, []
        if not uses:
            return
        log_likelihood = torch.log_softmax(scores.float() if scores.dtype.itemsize < 4 else scores, dim=1)
        cumulative = log_likelihood.detach().exp().cumsum(dim=1)
        drawn = (cumulative < uniform.to(cumulative)[:, None]).sum(dim=1).clamp_max(scores.shape[1] - 1)
        loss = -log_likelihood.gather(1, drawn[:, None]).sum()
        gradients = torch.autograd.grad(
            loss, [output for _, output in uses], retain_graph=True, allow_unused=True
        )
        self._close()
        terms = Terms("classes drawn from the prediction", 1.0, float(len(scores)))
        self._pass = _Pass(1.0, terms=terms)
        for (use, _), gradient in zip(uses, gradients, strict=True):
            if gradient is not None:
                self._add_gradients(use, gradient)
        self._close()

    def enter(self, model: nn.Module, inputs: Sequence[Any]) -> None:
        """A call of the network begins."""
        self._depth += 1
        if self._depth > 1:
            return
        self._trains, self._alone = model.training, False
        first = next((x for x in inputs if isinstance(x, Tensor) and x.dim()), None)
        self._n_rows = None if first is None else len(first)
        looks = model.training and torch.is_grad_enabled() and not self.paused
        if looks and self.watches_functions and self._active():
            mode = Watching(self._layers.functions.__contains__, self._hear)
            mode.__enter__()  # type: ignore[no-untyped-call]
            self._modes.append(mode)

    def leave(self, model: nn.Module, inputs: Sequence[Any], output: object) -> None:
        """A call of the network ends, well or not."""
        self._depth -= 1
        if self._depth > 0:
            return
        for mode in self._modes:
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._modes, self._told = [], None
        scores = _first_tensor(output)
        if self._sampled or scores is None or not self._wanted(model.training, scores):
            return
        # Where the last layer was given one sample without a dimension of its own, so was the network.
        n_rows = len(scores) if scores.dim() and not self._alone else 1
        kept = scores.detach()
        scores.register_hook(lambda gradient: self._add_scores(kept, gradient, n_rows))  # type: ignore[no-untyped-call]

    def see(
        self, name: str, structure: Structure, x: Tensor, output: Tensor, *, rows: slice | None = None
    ) -> None:
        """A layer has been used."""
        self._alone = alone = x.dim() < structure.n_dimensions
        if alone:
            x = x[None]
        shape = output[None].shape if alone else output.shape
        turned = x.dim() >= 3 and isinstance(structure, KroneckerProduct) and structure.convolution is None
        turned = turned and self._n_rows is not None and len(x) != self._n_rows and x.shape[1] == self._n_rows
        if turned:
            x = x.transpose(0, 1)
        n_rows = shape[1] if turned else shape[0]
        n = ceil(self._sample_fraction * n_rows)
        kept = self._add_inputs(name, structure, x.detach(), n)
        use = _Use(name, structure, kept, n, n_rows, turned, alone, rows)
        if self._sampled:
            self._uses.append((use, output))
        else:
            output.register_hook(lambda gradient: self._from_backward(use, gradient))  # type: ignore[no-untyped-call]

    def watch(
        self, module: nn.Module, inputs: Sequence[Any], output: object, *, name: str, structure: Structure
    ) -> None:
        """A module that is a layer has been called."""
        x = inputs[0] if inputs else None
        if not (isinstance(x, Tensor) and isinstance(output, Tensor)) or output is self._told:
            return
        # A normalization may be in evaluation mode inside of a network that trains.
        if self._wanted(self._trains if self._depth else module.training, output):
            self.see(name, structure, x, output)

    def _hear(self, weight: Tensor, rows: slice, x: Tensor, output: Tensor) -> None:
        """A function has applied a weight."""
        if output.requires_grad and not self.paused:
            name, structure = self._layers.functions[id(weight)]
            whole = rows == slice(0, len(weight))
            self.see(name, structure, x, output, rows=None if whole else rows)
            self._told = output

    def _wanted(self, training: bool, output: Tensor) -> bool:
        return not self.paused and training and output.requires_grad and self._active()

    def _current(self) -> _Pass:
        """The pass under way: of the call of `backward` that this is called in."""
        number = torch._C._current_graph_task_id()
        if self._pass is None or number != self._pass_id:
            self._close()
            self._pass, self._pass_id = _Pass(self.loss_scale), number
        return self._pass

    @uncompiled
    def _add_scores(self, scores: Tensor, gradient: Tensor, n_rows: int) -> None:
        if not self.paused:
            current = self._current()
            current.n_rows = n_rows
            if self._loss == "learned":
                current.scores.append((scores, gradient))

    @uncompiled
    def _from_backward(self, use: _Use, gradient: Tensor) -> None:
        if not self.paused:
            self._current()
            self._add_gradients(use, gradient)

    @torch.no_grad()
    def _add_inputs(self, name: str, structure: Structure, x: Tensor, n: int) -> Tensor:
        dtype = working_type(structure.parameters[0])
        x = x.to(dtype) if x.is_floating_point() else x
        with torch.autocast(x.device.type, enabled=False):
            inputs = structure.inputs(x, n)
            if self._reduced and isinstance(structure, KroneckerProduct):
                return inputs.reshape(*inputs.shape[:-1], -1, n).sum(dim=-2) if n else inputs
            n_uses = structure.n_uses(inputs)
            for matrix, moment in structure.input_moments(inputs).items():
                _add(self._inputs, (name, matrix), moment, n_uses)
        if name in self._bases or structure.keeps_inputs:
            return inputs
        # Of the others only the shape is asked for; a view would keep all inputs alive until the backward pass.
        return inputs.new_empty(inputs[:0].shape)

    @torch.no_grad()
    def _add_gradients(self, use: _Use, gradient: Tensor) -> None:
        assert self._pass is not None
        structure = use.structure
        if use.alone:
            gradient = gradient[None]
        if use.turned:
            gradient = gradient.transpose(0, 1)
        gradient = gradient[: use.n].to(working_type(structure.parameters[0]))
        if use.rows is not None:  # the other rows of the weight have had no part in it
            before, after = use.rows.start, structure.parameters[0].shape[0] - use.rows.stop
            gradient = nn.functional.pad(gradient, (before, after))
        counts = self._pass.rows.setdefault(use.name, [0, 0, use.n_rows])
        counts[0] += use.n
        counts[1] += use.n_rows
        with torch.autocast(gradient.device.type, enabled=False):
            if self._reduced and isinstance(structure, KroneckerProduct):
                self._add_sums(use, structure, gradient)
                return
            for matrix, moment in structure.gradient_moments(use.inputs, gradient).items():
                self._add_moment((use.name, matrix), moment)
            if use.name in self._bases:
                assert isinstance(structure, KroneckerProduct)
                columns = structure.with_ones(use.inputs), structure.gradients(gradient)
                squares = rotated_second_moment(*columns, *self._bases[use.name], use.n)
                self._add_moment((use.name, CORRECTION), squares)

    def _add_moment(self, key: Key, moment: Tensor) -> None:
        assert self._pass is not None
        former = self._pass.moments.get(key)
        self._pass.moments[key] = moment if former is None else former.add_(moment)

    def _add_sums(self, use: _Use, structure: KroneckerProduct, gradient: Tensor) -> None:
        """Add up the uses of each sample, over positions and over calls."""
        assert self._pass is not None
        columns = structure.gradients(gradient)
        n_positions = columns.shape[-1] // max(use.n, 1)
        summed = columns.reshape(*columns.shape[:-1], n_positions, use.n).sum(dim=-2)
        former = self._pass.sums.get(use.name)
        if former is not None:
            if former[2].shape != summed.shape:
                raise ValueError(
                    f"layer {use.name} was called with {use.n} and with {former[2].shape[-1]} samples in one pass; set "
                    "weight_sharing to 'expand', which does not add up their uses"
                )
            uses = former[3] + n_positions
            self._pass.sums[use.name] = structure, former[1] + use.inputs, former[2] + summed, uses
        else:
            self._pass.sums[use.name] = structure, use.inputs, summed, n_positions

    def _close(self) -> None:
        """Bring the gradients of a pass to those of single samples and add their moments to the others'."""
        ended, self._pass, self._pass_id = self._pass, None, -1
        if ended is None or not ended.rows:
            return
        for name, (structure, inputs, gradients, n_uses) in ended.sums.items():
            mean = structure.input_moments(inputs / n_uses)
            for matrix, moment in mean.items():
                _add(self._inputs, (name, matrix), moment, inputs.shape[-1])
            for matrix, moment in structure.output_moments(gradients).items():
                ended.moments[name, matrix] = moment
        terms = ended.terms or (_together(ended.scores) if self._loss == "learned" else None)
        if terms is None and self._loss == "sum":
            terms = Terms("a sum", ended.scale, float(ended.n_rows or 0))
        self._n_unscaled += terms is None
        for key, moment in ended.moments.items():
            looked_at, n_rows, first = ended.rows[key[0]]
            n_samples = first if ended.n_rows is None else ended.n_rows
            if terms is not None:
                n = (terms.n or n_samples if self._loss == "sum" else terms.n) * looked_at / max(n_rows, 1)
                factor = terms.weight**-2
                _add(self._gradients, key, moment.mul_(factor) if factor != 1 else moment, n)
            else:
                n = n_samples * looked_at / max(n_rows, 1)
                _add(self._unscaled, key, moment.mul_((n_samples / ended.scale) ** 2), n)
        if terms is None:
            n_samples = ended.n_rows or next(iter(ended.rows.values()))[2]
            terms = Terms("a mean over dimension 0", ended.scale / n_samples, float(n_samples))
        self.terms = terms


def _add(sums: dict[Key, Moments], key: Key, moment: Tensor, n: float) -> None:
    former = sums.get(key)
    # A single pass is not rounded again; with the second one the sum becomes one of double precision.
    sums[key] = (
        Moments(moment, n) if former is None else Moments(former.total.double().add_(moment), former.n + n)
    )


def _together(scores: Sequence[tuple[Tensor, Tensor]]) -> Terms | None:
    """What the outputs of all calls in a pass say; they are uses of the same samples."""
    found = [learn_terms(*each) for each in scores]
    if not found or any(terms is None for terms in found):
        return None
    known = [terms for terms in found if terms is not None]
    live = [terms for terms in known if terms.n]
    if not live:
        return known[0]
    n = sum(terms.n for terms in live)
    return Terms(live[0].source, n / sum(terms.n / terms.weight for terms in live), n / len(live))


def _first_tensor(output: object) -> Tensor | None:
    """What a loss is most likely computed from: the first tensor of more than one dimension, else the first."""
    if isinstance(output, Tensor):
        return output
    parts = (
        output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    )
    tensors = [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]
    return next((tensor for tensor in tensors if tensor.dim() > 1), tensors[0] if tensors else None)
