"""Watch the functions by which attention and recurrences apply their weights.

Attention projects by `torch.nn.functional.linear` deep inside another function, and recurrences run in one native call
that does not show its gates. Inside `Watching`, both run step by step in calls of `linear`, which compute the same
numbers up to rounding, and every call of `linear` with a layer's weight is reported.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode_stack,
    _pop_mode,
    _push_mode,
)

from pipeline.training.hooks import uncompiled

# Arguments: the weight, the rows of it that were applied, inputs, outputs, and the number of samples if inputs are
# known to have steps before samples, else None.
Tell = Callable[[Tensor, slice, Tensor, Tensor, int | None], None]


class Watching(TorchFunctionMode):
    """Mode in which `tell` is called after each linear map by a known weight.

    Args:
        known: Whether the weight with this `id` is of interest.
        tell: Called after each such map.
    """

    def __init__(self, known: Callable[[int], bool], tell: Tell) -> None:
        super().__init__()
        self._known = known
        self._tell = tell

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is functional.linear:
            return self.linear(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            return self._attend(func, args, kwargs)
        if func in _RECURRENCES and self._unrolls(args):
            return self._recur(func, args)
        if func in _CELLS and any(self._known(id(weight)) for weight in args[2:4]):
            return self._step(func, args)
        return func(*args, **kwargs)

    def linear(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *, n_samples: int | None = None
    ) -> Tensor:
        """Compute `torch.nn.functional.linear` and report the call."""
        output = functional.linear(input, weight, bias)
        base = weight if weight._base is None else weight._base
        if self._known(id(base)) and weight.shape[1:] == base.shape[1:] and weight.stride() == base.stride():
            start = (weight.storage_offset() - base.storage_offset()) // base.stride(0)
            self._tell(base, slice(start, start + len(weight)), input, output, n_samples)
        return output

    @uncompiled
    def _recur(self, function: Any, args: Sequence[Any]) -> Any:
        return _RECURRENCES[function](self.linear, *args)

    @uncompiled
    def _step(self, function: Any, args: Sequence[Any]) -> Any:
        x, state, at_input, at_state, for_input, for_state = args
        states = (state,) if isinstance(state, Tensor) else tuple(state)
        new = _CELLS[function](
            self.linear(x, at_input, for_input), self.linear(states[0], at_state, for_state), states
        )
        return new[0] if isinstance(state, Tensor) else new

    @uncompiled
    def _attend(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        query: Tensor = args[0] if args else kwargs["query"]
        n_samples = query.shape[1] if query.dim() == 3 else 1
        return self._unfolded(function, n_samples)(*args, **kwargs)

    def _unrolls(self, args: Sequence[Any]) -> bool:
        """Whether to run a recurrence step by step: its sequences have equal lengths and a weight is of interest."""
        weights = args[2]
        return isinstance(weights, list | tuple) and any(self._known(id(w)) for w in weights)

    def _unfolded(self, function: Any, n_samples: int) -> Callable[..., Any]:
        """Return a copy of a torch function that calls this object's `linear`: the same code with other globals."""

        def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            return self.linear(input, weight, bias, n_samples=n_samples)

        inner = {**function.__globals__, "linear": linear, "has_torch_function": lambda _: False}
        for name in ("_in_projection_packed", "_in_projection"):
            inner[name] = _with_globals(function.__globals__[name], inner)
        return _with_globals(function, inner)


def leave_mode(mode: TorchFunctionMode) -> None:
    """Leave a mode wherever it is on the stack of entered modes."""
    if mode not in _get_current_function_mode_stack():  # type: ignore[no-untyped-call]
        return
    above = []
    while (top := _pop_mode()) is not mode:  # type: ignore[no-untyped-call]
        above.append(top)
    for each in reversed(above):
        _push_mode(each)  # type: ignore[no-untyped-call]


def _with_globals(function: Any, new: dict[str, Any]) -> Callable[..., Any]:
    copy = FunctionType(function.__code__, new, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


Cell = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def _lstm_cell(from_input: Tensor, from_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    i, f, g, o = (from_input + from_state).chunk(4, dim=-1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru_cell(from_input: Tensor, from_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (r, z, n), (r_state, z_state, n_state) = from_input.chunk(3, dim=-1), from_state.chunk(3, dim=-1)
    update = (z + z_state).sigmoid()
    new = (n + (r + r_state).sigmoid() * n_state).tanh()
    return ((1 - update) * new + update * state[0],)


def _tanh_cell(from_input: Tensor, from_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return ((from_input + from_state).tanh(),)


def _relu_cell(from_input: Tensor, from_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return ((from_input + from_state).relu(),)


def _unrolled(
    cell: Cell,
    linear: Callable[..., Tensor],
    x: Tensor,
    first: Tensor | Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    n_layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Run a recurrence as torch's native ones do [torch.nn.LSTM, GRU, RNN], one step after the other.

    Args:
        cell: Computes one step's new state from the inputs' linear map, the state's linear map, and the state.
        linear: Applies a weight.
        x: Shape (n_steps, n, n_inputs), or (n, n_steps, n_inputs) if `batch_first`.
        first: States before the first step, each of shape (n_layers * n_directions, n, n_states).
        weights: The weights of each layer and direction: those of inputs and of states, then the biases of both.

    Returns:
        The outputs in the order of `x`, and the last states.
    """
    n_samples = x.shape[0 if batch_first else 1]
    linear = partial(linear, n_samples=n_samples)
    starts = [first] if isinstance(first, Tensor) else list(first)
    x = x.transpose(0, 1) if batch_first else x
    n_directions, n_weights = 1 + bidirectional, 4 if has_biases else 2
    ends: list[tuple[Tensor, ...]] = []
    for layer in range(n_layers):
        both = []
        for direction in range(n_directions):
            i = layer * n_directions + direction
            own = list(weights[i * n_weights : (i + 1) * n_weights])
            at_input, at_state, *biases = own
            for_input, for_state = biases or (None, None)
            state = tuple(start[i] for start in starts)
            from_inputs = linear(x, at_input, for_input).unbind(0)
            steps = []
            for from_input in reversed(from_inputs) if direction else from_inputs:
                state = cell(from_input, linear(state[0], at_state, for_state), state)
                steps.append(state[0])
            both.append(torch.stack(steps[::-1] if direction else steps))
            ends.append(state)
        x = torch.cat(both, dim=-1)
        if dropout and layer < n_layers - 1:
            x = functional.dropout(x, dropout, training)
    last = tuple(torch.stack(states) for states in zip(*ends, strict=True))
    return (x.transpose(0, 1) if batch_first else x, *last)


def _running(cell: Cell) -> Callable[..., tuple[Tensor, ...]]:
    return lambda linear, *args: _unrolled(cell, linear, *args)


_RECURRENCES: dict[Any, Callable[..., tuple[Tensor, ...]]] = {
    torch._VF.lstm: _running(_lstm_cell),
    torch._VF.gru: _running(_gru_cell),
    torch._VF.rnn_tanh: _running(_tanh_cell),
    torch._VF.rnn_relu: _running(_relu_cell),
}

_CELLS: dict[Any, Cell] = {
    torch._VF.lstm_cell: _lstm_cell,
    torch._VF.gru_cell: _gru_cell,
    torch._VF.rnn_tanh_cell: _tanh_cell,
    torch._VF.rnn_relu_cell: _relu_cell,
}
