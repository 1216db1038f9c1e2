"""Hooks that collect the statistics of the Kronecker factors during forward and backward passes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil
from types import FrameType
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from pipeline.training.functions import Watching, leave_mode
from pipeline.training.hooks import (
    EagerHook,
    Hook,
    forget_compiled_code,
    frame_of_call,
    is_running,
    uncompiled,
)
from pipeline.training.layers import Layers
from pipeline.training.loss_terms import Terms
from pipeline.training.passes import Call, Eigenbases, Key, Loss, Moments, Pass, Use
from pipeline.training.sample_order import arrangement, lacks_samples
from pipeline.training.structures import KroneckerProduct, Structure, in_working_type, working_type
from pipeline.training.sums import Sums, add
from pipeline.training.uses import Fate, count_uses, fate_of_gradient, is_transformed, tensors_of


class Capture:
    """Watch layers of a network.

    Args:
        model: The network. It and its layers get hooks, which `remove` takes away; copies of the network have none.
        layers: The layers to be watched.
        active: Asked at every forward pass whether statistics are wanted.
        sample_fraction: Share of each pass's samples, the first ones, that statistics are taken from. Where the first
            dimension may not hold the samples, they are taken from all.
        loss: How the gradients of single samples are scaled. "learned": as `learn_terms` infers from the network's
            output, or as with "mean" if it cannot; "mean": as parts of a mean over the samples of all passes between
            two calls of `take`; "sum": not at all.
        sampled: Whether output gradients come from `sample` instead of `backward`.
        reduced: Whether the uses of a sample are summed before their moments are taken.
        bases: Eigenbases of A and G of each layer, blocks in order, in which squares of gradients are wanted.
        forgets: Whether the statistics of a layer are discarded when its gradient has been set to zero or None.

    Attributes:
        paused: Whether passes are ignored.
        loss_scale: Factor by which the loss of `backward` was multiplied, for passes whose scale is not learned.
        terms: The terms of the last pass's loss.
        called: Layers that have been used.
        evaluated: Whether the network has been called in evaluation mode with gradients.
        differentiated: Whether the loss may contain derivatives of the network, whose use of weights no hook sees.
        partly_seen: Layers whose weights the network also uses where no hook sees it.
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
        bases: Eigenbases,
        forgets: bool,
    ) -> None:
        if loss not in get_args(Loss):
            raise ValueError(f"loss must be one of {', '.join(get_args(Loss))}, not {loss!r}")
        self.paused = False
        self.loss_scale = 1.0
        self.terms: Terms | None = None
        self.called: set[str] = set()
        self.evaluated = False
        self.differentiated = False
        self.partly_seen: set[str] = set()
        self.without_samples: set[str] = set()
        self.watches_functions = layers.by_function
        self._layers = layers
        self._active = active
        self._sample_fraction = sample_fraction
        self._loss: Loss = loss
        self._sampled = sampled
        self._reduced = reduced
        self._bases = bases
        self._forgets = forgets and not sampled  # `sample` is called only for passes that count
        self._sums, self._asked = Sums(), Sums()
        self._pass: Pass | None = None
        self._surveys = True
        self._call: Call | None = None
        self._depth = 0  # calls of the network that are under way
        self._frame: FrameType | None = None  # of the outermost call
        self._n_rows: int | None = None
        self._shape = torch.Size()
        self._turns = False  # whether the network's inputs have steps before samples
        self._told: Tensor | None = None
        self._trains = False
        self._alone = False
        self._mode: tuple[nn.Module, Watching] | None = None
        self._uses: list[tuple[Use, Tensor]] = []
        self._nodes: dict[int, Node] = {}
        # Attention and recurrences may have inputs with steps before samples, and so may the layers around them.
        orders = {m.batch_first for m in model.modules() if isinstance(getattr(m, "batch_first", None), bool)}
        self._steps_first, self._always_steps_first = False in orders, orders == {False}
        self._handles = [
            module.register_forward_hook(
                Hook(module, partial(self.watch, name=name, structure=structure)),
                with_kwargs=True,
                prepend=True,  # before hooks that change the output
            )
            for module, name, structure in layers.calls
        ]
        # In compiled code only the network's own hook watches functions, because torch cannot break the graph inside.
        around = [(EagerHook, m, self.begin, self.end) for m in layers.holders if m is not model]
        for kind, module, before, after in (*around, (Hook, model, self.enter, self.leave)):
            self._handles += [
                module.register_forward_pre_hook(kind(module, before), with_kwargs=True),
                module.register_forward_hook(kind(module, after), with_kwargs=True, always_call=True),
            ]
        forget_compiled_code()

    def take(self, *, scale: float = 1.0) -> dict[Key, Moments]:
        """Return the moments collected since the last call; layers that were not used are missing.

        Args:
            scale: Factor of the losses of all passes in addition to `loss_scale`, used where it is not learned.
        """
        self._close()
        # Gradients of `torch.autograd.grad` count only if there are no others: the caller has put them into `grad`.
        found = (self._asked if self._sums.is_empty else self._sums).take(scale)
        self.discard()
        return found

    @property
    def waits_for_sample(self) -> bool:
        """Whether layers were used since `take`, but `sample`, which would take their statistics, was not called."""
        return bool(self._uses) and self._sums.is_empty

    @property
    def learns_scale(self) -> bool:
        """Whether the scales of all passes since the last call of `take` are known."""
        self._close()
        return not (self._asked if self._sums.is_empty else self._sums).n_unscaled

    def discard(self) -> None:
        """Discard the statistics collected since the last call of `take`."""
        self._sums.forget_all()
        self._asked.forget_all()
        self._pass = None
        self._uses = []

    def survey(self) -> None:
        """In the next call of the network, compare how often weights are used with how often hooks see them used."""
        self._surveys = True

    def remove(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        forget_compiled_code()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Ignore passes within the context."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    @uncompiled
    def sample(self, scores: Tensor, uniform: Tensor) -> None:
        """Take statistics of output gradients of the log-likelihood of classes drawn from the network's own prediction.

        Costs a backward pass through activations only: no gradient of a weight is computed.

        Args:
            scores: The scores of the current forward pass, shape (n, n_classes); shape (n,) or (n, 1) for the score of
                one class against another, whose is zero.
            uniform: Random numbers in [0, 1), shape (n,).

        Raises:
            ValueError: If the scores have another shape.
        """
        if scores.dim() > 2 or scores.dim() < 1:
            raise ValueError(
                f"sample_fisher needs scores of shape (n, n_classes), not {tuple(scores.shape)}; pass a row per term, "
                "as by scores.flatten(0, -2), with classes last"
            )
        if scores.dim() == 1 or scores.shape[1] == 1:
            scores = nn.functional.pad(scores.view(-1, 1), (1, 0))
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
        self._pass = Pass(1.0, terms=terms)
        for (use, _), gradient in zip(uses, gradients, strict=True):
            if gradient is not None:
                self._add(self._pass, use, gradient)
        self._close()

    def begin(self, model: nn.Module, inputs: Sequence[Any]) -> None:
        """Handle the start of a call of a module that applies weights by functions."""
        trains = self._trains if self._depth else model.training
        if self._mode is None and self.watches_functions and self._looks(trains):
            mode = Watching(self._layers.functions.__contains__, self._hear)
            mode.__enter__()  # type: ignore[no-untyped-call]
            self._mode = model, mode

    def end(self, model: nn.Module, inputs: Sequence[Any], output: object = None) -> None:
        """Handle the end of such a call, whether it returned or raised."""
        if self._mode is not None and self._mode[0] is model:
            self._mode[1].__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._mode, self._told = None, None

    def enter(self, model: nn.Module, inputs: Sequence[Any]) -> None:
        """Handle the start of a call of the network."""
        if self._depth and not is_running(self._frame):
            self._recover()
        self._depth += 1
        if self._depth > 1:
            return
        self._frame = frame_of_call()
        self._trains, self._alone = model.training, False
        shapes = [x.shape for x in inputs if isinstance(x, Tensor) and x.dim()]
        # A square matrix before other inputs is a mask of attention, which has no samples.
        with_samples = (shape for shape in shapes if len(shape) != 2 or shape[0] != shape[1])
        first = next(with_samples, shapes[0] if shapes else None)
        self._shape = first or torch.Size()
        self._n_rows = None if first is None else first[self._turns and len(first) > 1]
        self._call = self._new_call()
        self._call.n_inputs = self._n_rows
        self.begin(model, inputs)

    def leave(self, model: nn.Module, inputs: Sequence[Any], output: object = None) -> None:
        """Handle the end of a call of the network, whether it returned or raised."""
        if not self._depth:
            return  # a hook before ours has failed
        self._depth -= 1
        if self._depth > 0:
            return
        self._frame = None
        self.end(model, inputs)
        call, self._call = self._call, None
        if call is not None and call.n_samples is not None and len(self._shape) > 1:
            steps, samples = self._shape[:2]
            self._turns = samples == call.n_samples and (steps != samples or self._turns)
        scores = _scores(output)
        if scores is None or not scores.requires_grad:
            return
        self.evaluated |= not model.training
        if not self._looks(model.training):
            return
        if self._surveys and call is not None and call.n_uses:
            self._surveys = False
            self._count(output, call)
        if self._sampled:
            return
        # If the last layer got one sample without a batch dimension, so did the network. A network that returns a
        # scalar has computed the loss itself.
        n_rows = 1 if self._alone else len(scores) if scores.dim() else self._n_rows
        if call is not None:
            call.n_rows = n_rows
        outputs = [t for t in tensors_of(output) if (t.requires_grad and t.dim() > 1) or t is scores]
        for place, each in enumerate(outputs):
            told = partial(self._add_scores, call or Call(), place, each.detach(), each._version, n_rows)
            each.register_hook(told)  # type: ignore[no-untyped-call]

    def _recover(self) -> None:
        """Forget a call that ended without torch calling hooks, as after a keyboard interrupt."""
        self._depth = 0
        if self._mode is not None:
            leave_mode(self._mode[1])
            self._mode, self._told = None, None

    def see(
        self,
        name: str,
        structure: Structure,
        x: Tensor,
        output: Tensor,
        *,
        rows: slice | None = None,
        n_samples: int | None = None,
    ) -> None:
        """Record a use of a layer.

        Args:
            name: Name of the layer.
            structure: Its structure.
            x: Its input.
            output: Its output.
            rows: The rows of the weight that were applied; None if all were.
            n_samples: The number of samples if inputs are known to have steps before samples, else None.
        """
        call = self._call or self._new_call()
        self.called.add(name)
        call.n_uses[name] = call.n_uses.get(name, 0) + 1
        of_network = n_samples is None and self._call is not None
        if of_network and lacks_samples(structure, x, n_rows=self._n_rows, shape=self._shape):
            self.without_samples.add(name)
            return
        self._alone = n_samples is None and x.dim() < structure.n_dimensions
        arrange, certain = arrangement(
            structure,
            x,
            n_rows=self._n_rows,
            n_samples=n_samples,
            steps_first=self._steps_first,
            always=self._always_steps_first,
        )
        x = arrange(x)
        n = ceil(self._sample_fraction * len(x)) if certain else len(x)
        kept = self._add_inputs(call, name, structure, x.detach(), n, output.shape)
        call.n_samples = n_samples or call.n_samples
        use = Use(name, structure, call, kept, n, len(x), arrange, rows, certain)
        if self._sampled:
            self._uses.append((use, output))
        else:
            # Without a call of the network, the scale is that of the layer whose output the loss is computed from.
            alone = self._call is None and torch._C._current_graph_task_id() < 0
            scores = (output.detach(), output._version) if alone else None
            told = partial(self._from_backward, use, scores)
            output.register_hook(told)  # type: ignore[no-untyped-call]

    def watch(
        self, module: nn.Module, inputs: Sequence[Any], output: object, *, name: str, structure: Structure
    ) -> None:
        """Record a call of a module that is a layer."""
        x = inputs[0] if inputs else None
        if not (isinstance(x, Tensor) and isinstance(output, Tensor)) or output is self._told:
            return
        # A normalization may be in evaluation mode inside of a network that trains.
        if output.requires_grad and self._looks(self._trains if self._depth else module.training):
            self.see(name, structure, x, output)

    def _hear(self, weight: Tensor, rows: slice, x: Tensor, output: Tensor, n_samples: int | None) -> None:
        """Record that a function has applied a weight."""
        if output.requires_grad and not self.paused:
            name, structure = self._layers.functions[id(weight)]
            whole = rows == slice(0, len(weight))
            self.see(name, structure, x, output, rows=None if whole else rows, n_samples=n_samples)
            self._told = output

    def _looks(self, training: bool) -> bool:
        looks = training and not self.paused and torch.is_grad_enabled()
        return looks and self._active() and not is_transformed()

    def _new_call(self) -> Call:
        current = self._pass
        if current is None or current.number < 0 or current.ended:
            return Call()
        if torch._C._current_graph_task_id() >= 0:
            return current.call
        self._pass = None  # an error ended it early
        return Call()

    def _count(self, output: object, call: Call) -> None:
        """Find layers whose weights are used more often than hooks have seen."""
        found = count_uses(output)
        self.partly_seen = {
            name
            for name, n in call.n_uses.items()
            if found[id(self._layers.structures[name].parameters[0])] > n
        }

    def _current(self, fate: Fate) -> Pass:
        """Return the pass of the backward computation that is running."""
        number = torch._C._current_graph_task_id()
        current = self._pass
        if current is not None and current.ended and number > current.number:
            self._close()
            current = None
        if current is None:
            current = self._pass = Pass(self.loss_scale, is_asked=fate == Fate.ASKED)
        elif number >= current.number:
            return current  # the same, or one that runs inside of it
        current.number, current.ended = number, False
        torch.autograd.Variable._execution_engine.queue_callback(partial(_end, current, number))
        return current

    def _fate(self, structure: Structure) -> Fate:
        return fate_of_gradient(structure.parameters[0], self._nodes)

    @uncompiled
    def _add_scores(
        self, call: Call, place: int, scores: Tensor, version: int, n_rows: int | None, gradient: Tensor
    ) -> None:
        fates = (self._fate(layer) for layer in self._layers.structures.values())
        fate = next((fate for fate in fates if fate != Fate.SPARED), Fate.SPARED)
        if not self.paused and fate != Fate.SPARED:
            current = self._current(fate)
            current.n_rows = n_rows
            if self._loss == "learned":
                current.add_scores(call, place, scores, gradient, whole=scores._version == version)

    @uncompiled
    def _from_backward(self, use: Use, scores: tuple[Tensor, int] | None, gradient: Tensor) -> None:
        if self.paused:
            return
        fate = self._fate(use.structure)
        if fate == Fate.SPARED:
            self.differentiated |= torch.is_grad_enabled()
        else:
            current = self._current(fate)
            if scores is not None:
                output, version = scores
                whole = self._loss == "learned" and output._version == version
                current.add_last(use, output, gradient, whole=whole)
            self._add(current, use, gradient)

    def _add(self, current: Pass, use: Use, gradient: Tensor) -> None:
        if current.is_asked:
            self._asked.add_inputs(use.call, use.name, keep=True)
        else:
            if use.name not in current.rows and self._forgets and not self._sums.is_empty:
                self._forget_zeroed(use, opens=not current.rows)
            self._sums.add_inputs(use.call, use.name)
        current.add(use, gradient, reduced=self._reduced, bases=self._bases)

    def _forget_zeroed(self, use: Use, *, opens: bool) -> None:
        """Discard the statistics of a layer, or of all layers, if gradients no longer contain the earlier passes."""
        if use.structure.parameters[0].grad is None:
            self._sums.forget(use.name)
        elif opens:
            gradients = (layer.parameters[0].grad for layer in self._layers.structures.values())
            if not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
                self._sums.forget_all()

    @torch.no_grad()
    def _add_inputs(
        self, call: Call, name: str, structure: Structure, x: Tensor, n: int, output: torch.Size
    ) -> Tensor:
        dtype = working_type(structure.parameters[0])
        x = x.to(dtype) if x.is_floating_point() else x
        with in_working_type(x.device):
            inputs = structure.inputs(x, n, output)
            if self._reduced and isinstance(structure, KroneckerProduct):
                return inputs.reshape(*inputs.shape[:-1], -1, n).sum(dim=-2) if n else inputs
            n_uses = structure.n_uses(inputs)
            for matrix, moment in structure.input_moments(inputs).items():
                add(call.inputs, (name, matrix), moment, n_uses)
        if name in self._bases or structure.keeps_inputs:
            return inputs
        # Other layers need only the shape; a view would keep all inputs alive until the backward pass.
        return inputs.new_empty(inputs[:0].shape)

    def _close(self) -> None:
        """Add the pass that has ended to the sums."""
        ended, self._pass = self._pass, None
        if ended is not None and ended.rows:
            sums = self._asked if ended.is_asked else self._sums
            self.terms = sums.add_pass(ended, self._loss) or self.terms


def _end(current: Pass, number: int) -> None:
    current.ended = current.ended or current.number == number


def _scores(output: object) -> Tensor | None:
    """Return the output most likely to enter the loss: the first tensor of more than one dimension, else the first."""
    tensors = [output] if isinstance(output, Tensor) else list(tensors_of(output))
    tensors = [tensor for tensor in tensors if isinstance(output, Tensor) or tensor.is_floating_point()]
    return next((tensor for tensor in tensors if tensor.dim() > 1), tensors[0] if tensors else None)
