"""Statistics of layers from calls of a network and backward passes, as sums over single samples.

A *pass* is a call of `backward`; all uses of a layer in one call of the network belong to the same samples. A layer's
inputs count once a pass has reached its outputs: a call without a pass leaves no trace.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.training.kronecker import normalization_moment, rotated_second_moment
from pipeline.training.loss_terms import Terms, learn_terms
from pipeline.training.sample_order import Arrange, as_is, turned
from pipeline.training.structures import (
    KroneckerProduct,
    Structure,
    UnitWise,
    in_working_type,
    spread,
    working_type,
)

Key = tuple[str, str]  # a layer's name, and that of one of its matrices
Loss = Literal["learned", "mean", "sum"]
Eigenbases = Mapping[str, tuple[list[Tensor], list[Tensor]]]

CORRECTION = "S"  # second moments of gradients in the eigenbasis, not a symmetric matrix


@dataclass(frozen=True)
class Moments:
    """Sum over samples for one matrix.

    Attributes:
        total: The sum; in float64 if there were several passes, so that it hardly depends on their order.
        n: Divisor of the sum: the number of samples for gradients, the number of uses for inputs.
    """

    total: Tensor
    n: float


@dataclass(eq=False)
class Call:
    """A call of the network.

    Attributes:
        inputs: Moments of its layers' inputs, until a pass reaches their outputs.
        n_uses: How often each layer was used.
        n_samples: The number of samples if functions have shown that steps come before samples, else None.
        n_rows: How many samples the network was called with; None if it is not known.
        n_inputs: Length of the network's inputs, mostly the number of samples; None if it is not known.
    """

    inputs: dict[Key, Moments] = field(default_factory=dict)
    n_uses: dict[str, int] = field(default_factory=dict)
    n_samples: int | None = None
    n_rows: int | None = None
    n_inputs: int | None = None


@dataclass(frozen=True)
class Use:
    """A call of a layer, between forward and backward.

    Attributes:
        name: Name of the layer.
        structure: The structure of the layer.
        call: The call of the network.
        inputs: The inputs in the form that the moments of gradients need.
        n: How many samples, evenly spaced, statistics are taken from.
        n_rows: How many samples there are.
        arrange: Brings gradients into the form in which samples come first.
        rows: Rows of the weight that were applied; None where all were.
        certain: Whether samples are known to come first in that form.
    """

    name: str
    structure: Structure
    call: Call
    inputs: Tensor
    n: int
    n_rows: int
    arrange: Arrange
    rows: slice | None = None
    certain: bool = True

    @property
    def is_one_of_several(self) -> bool:
        """Whether the call used the layer more than once, and this use is of all samples of the call.

        Other uses are taken for uses of other samples each, as where a network cuts its batch.
        """
        call = self.call
        of_all = self.n_rows in (call.n_rows, call.n_inputs) or self.n_folded > 1
        return of_all and call.n_uses.get(self.name, 0) > 1

    @property
    def n_folded(self) -> int:
        """How many rows belong to each sample, where a network has folded positions into the samples, else 1.

        Rows of a sample are taken to stand together, as `flatten(0, 1)` of samples and positions puts them.
        """
        n = self.call.n_inputs
        folds = n and self.call.n_rows == n and self.n == self.n_rows and self.n_rows % n == 0
        return self.n_rows // n if n and folds else 1

    def settled(self) -> "Use":
        """Return the use; a normalization's steps and samples are swapped if the call has shown later that they must
        be."""
        n = self.call.n_samples
        if self.certain or n is None or not isinstance(self.structure, UnitWise):
            return self
        if (
            self.arrange is not as_is
            or self.inputs.dim() != 3
            or self.inputs.shape[1] != n
            or self.n_rows == n
        ):
            return self
        return replace(self, inputs=self.inputs.transpose(0, 1), n=n, n_rows=n, arrange=turned)


@dataclass
class Pass:
    """Statistics of one backward pass so far, of gradients that are not rescaled yet.

    Attributes:
        scale: Factor by which the loss was multiplied.
        is_asked: Whether `torch.autograd.grad` runs the pass, which then leaves nothing in the weights' `grad`.
        number: Torch's number of the backward pass; passes nested in it, as those of checkpoints, have larger numbers.
        ended: Whether it is over.
        scores: The terms of the loss inferred from each output of each call of the network, by the output's place.
        last: Name of the layer that the pass comes to first, if it is called outside of the network's own calls.
        last_scores: The terms of the loss inferred from this layer's outputs, as in `scores`.
        n_rows: How many samples a call of the network had; None if only parts of the network were called.
        moments: Sums of the moments of output gradients, apart for calls of the network with other numbers of samples.
        calls: For each layer, the calls of the network that used it.
        rows: For each layer, how many rows statistics were taken from, how many there were, and how many in the first
            call.
        sums: For each layer and call of the network, sums over the uses of each sample: of inputs, of output gradients,
            and how many uses.
        units: For each normalization that a call of the network used several times, sums over these uses of the
            gradients by single samples, by the number of samples.
        columns: The same for layers with eigenbases: the layer, its bases, and the columns of inputs and of output
            gradients of each use.
        terms: The terms of the loss, if they are known beforehand.
        call: Record of the layers that are called during the pass, as by checkpoints.
    """

    scale: float
    is_asked: bool = False
    number: int = -1
    ended: bool = False
    scores: dict[Call, dict[int, Terms | None]] = field(default_factory=dict)
    last: str | None = None
    last_scores: dict[Call, dict[int, Terms | None]] = field(default_factory=dict)
    n_rows: int | None = None
    moments: dict[tuple[Key, int | None], Tensor] = field(default_factory=dict)
    calls: dict[str, dict[Call, None]] = field(default_factory=dict)
    rows: dict[str, list[int]] = field(default_factory=dict)
    sums: dict[tuple[str, Call], tuple[KroneckerProduct, Tensor, Tensor, int]] = field(default_factory=dict)
    units: dict[tuple[str, Call, int], Tensor] = field(default_factory=dict)
    columns: dict[
        tuple[str, Call, int], tuple[tuple[list[Tensor], list[Tensor]], list[Tensor], list[Tensor]]
    ] = field(default_factory=dict)
    terms: Terms | None = None
    call: Call = field(default_factory=Call)

    def add_scores(self, call: Call, place: int, scores: Tensor, gradient: Tensor, *, whole: bool) -> None:
        """Note an output of the network and its gradient.

        Args:
            call: The call of the network.
            place: Place among its outputs.
            scores: The output.
            gradient: Its gradient.
            whole: Whether the output has not changed since the hook for its gradient was added.
        """
        self.scores.setdefault(call, {})[place] = learn_terms(scores, gradient) if whole else None

    def add_last(self, use: Use, scores: Tensor, gradient: Tensor, *, whole: bool) -> None:
        """Note the output of a layer that was called outside of the network's own calls, and its gradient.

        The layer that the pass comes to first has computed the scores. Whoever calls the parts of a network one by one
        calls it last.
        """
        if self.last is None:
            self.last = use.name if not self.rows else ""
            if self.last and self.n_rows is None:
                self.n_rows = len(use.arrange(scores))
        if self.last == use.name:
            self.last_scores.setdefault(use.call, {})[0] = learn_terms(scores, gradient) if whole else None

    @torch.no_grad()
    def add(self, use: Use, gradient: Tensor, *, reduced: bool, bases: Eigenbases) -> None:
        """Add the moments of the gradient at the outputs of a use.

        Args:
            use: The use.
            gradient: The gradient, of the shape of the outputs.
            reduced: Whether the uses of a sample are summed before their moments are taken.
            bases: Eigenbases in which squares of gradients are wanted.
        """
        use = use.settled()
        structure = use.structure
        gradient = spread(use.arrange(gradient), use.n).to(working_type(structure.parameters[0]))
        if use.rows is not None:  # the other rows of the weight have had no part in it
            before, after = use.rows.start, structure.parameters[0].shape[0] - use.rows.stop
            gradient = nn.functional.pad(gradient, (before, after))
        self.calls.setdefault(use.name, {})[use.call] = None
        counts = self.rows.setdefault(use.name, [0, 0, use.n_rows])
        counts[0] += use.n
        counts[1] += use.n_rows
        with in_working_type(gradient.device):
            if reduced and isinstance(structure, KroneckerProduct):
                self._add_sums(use, structure, gradient)
                return
            n_folded = use.n_folded
            key = use.name, use.call, use.n // n_folded
            if isinstance(structure, UnitWise) and (use.is_one_of_several or n_folded > 1):
                own = structure.sample_gradients(use.inputs, gradient)
                own = own.reshape(-1, n_folded, *own.shape[1:]).sum(dim=1) if n_folded > 1 else own
                former = self.units.get(key)
                self.units[key] = own if former is None else former + own
                return
            for matrix, moment in structure.gradient_moments(use.inputs, gradient).items():
                self.add_moment((use.name, matrix), moment, use.call)
            if use.name in bases:
                assert isinstance(structure, KroneckerProduct)
                n = use.n // n_folded
                inputs = _unfolded(structure.with_ones(use.inputs), n, n_folded)
                outputs = _unfolded(structure.gradients(gradient), n, n_folded)
                if use.is_one_of_several:
                    _, all_inputs, all_outputs = self.columns.setdefault(key, (bases[use.name], [], []))
                    all_inputs.append(inputs)
                    all_outputs.append(outputs)
                    return
                squares = rotated_second_moment(inputs, outputs, *bases[use.name], n)
                self.add_moment((use.name, CORRECTION), squares, use.call)

    @torch.no_grad()
    def add_several(self) -> None:
        """Add the moments of layers that a call used several times: gradients of a sample are summed over its uses."""
        for (name, call, _), gradients in self.units.items():
            with in_working_type(gradients.device):
                self.add_moment((name, "U"), normalization_moment(gradients), call)
        for (name, call, n), (bases, inputs, outputs) in self.columns.items():
            with in_working_type(inputs[0].device):
                columns = torch.cat(inputs, dim=-1), torch.cat(outputs, dim=-1)
                self.add_moment((name, CORRECTION), rotated_second_moment(*columns, *bases, n), call)
        self.units, self.columns = {}, {}

    def add_moment(self, key: Key, moment: Tensor, call: Call) -> None:
        """Add to the sum of a matrix over calls with as many samples as this one."""
        place = key, call.n_rows
        former = self.moments.get(place)
        self.moments[place] = moment if former is None else former.add_(moment)

    def n_samples(self, name: str) -> float:
        """The number of samples of a layer, averaged over the calls of the network."""
        if self.n_rows is None:
            return self.rows[name][2]
        sizes = [self.n_rows if call.n_rows is None else call.n_rows for call in self.calls[name]]
        return sum(sizes) / len(sizes)

    def _add_sums(self, use: Use, structure: KroneckerProduct, gradient: Tensor) -> None:
        """Add up the uses of each sample, over positions and over calls of the layer."""
        key = use.name, use.call
        columns = structure.gradients(gradient)
        n_positions = columns.shape[-1] // max(use.n, 1)
        summed = columns.reshape(*columns.shape[:-1], n_positions, use.n).sum(dim=-2)
        former = self.sums.get(key)
        if former is not None:
            if former[2].shape != summed.shape:
                raise ValueError(
                    f"layer {use.name} was called with {use.n} and with {former[2].shape[-1]} samples in one call of "
                    "the network; set weight_sharing to 'expand', which does not add up their uses"
                )
            uses = former[3] + n_positions
            self.sums[key] = structure, former[1] + use.inputs, former[2] + summed, uses
        else:
            self.sums[key] = structure, use.inputs, summed, n_positions


class Sums:
    """Moments over all passes since the last step.

    Attributes:
        n_unscaled: Number of passes whose scale is not known yet.
    """

    def __init__(self) -> None:
        self._inputs: dict[Key, Moments] = {}
        self._gradients: dict[Key, Moments] = {}
        self._unscaled: dict[Key, Moments] = {}
        self._unscaled_passes: list[set[str]] = []  # the layers of each
        self._without_gradient: list[dict[Key, float]] = []  # the samples of each such pass
        self._calls: dict[str, set[Call]] = {}  # whose samples have been counted, for each layer
        self._factors: list[float] = []  # of recognized passes: by what the mean of terms was multiplied

    @property
    def n_unscaled(self) -> int:
        return sum(bool(layers) for layers in self._unscaled_passes)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing yet."""
        return not (self._inputs or self._gradients or self._unscaled)

    def forget(self, name: str) -> None:
        """Discard the sums of a layer."""
        for moments in (self._inputs, self._gradients, self._unscaled):
            for key in [key for key in moments if key[0] == name]:
                del moments[key]
        for layers in self._unscaled_passes:
            layers.discard(name)
        self._calls.pop(name, None)

    def forget_all(self) -> None:
        """Discard all sums."""
        self.__init__()  # type: ignore[misc]

    def add_inputs(self, call: Call, name: str, *, keep: bool = False) -> None:
        """Add the moments of a layer's inputs in a call, once.

        Args:
            call: The call.
            name: Name of the layer.
            keep: Whether the call keeps the moments, so that other sums can add them too.
        """
        for key in [key for key in call.inputs if key[0] == name]:
            moments = call.inputs[key] if keep else call.inputs.pop(key)
            add(self._inputs, key, moments.total.clone() if keep else moments.total, moments.n)

    def add_pass(self, ended: Pass, loss: Loss) -> Terms | None:
        """Rescale the moments of a pass to gradients of single samples and add them to the sums.

        Returns:
            The terms of its loss; None for a pass without samples.
        """
        for (name, call), (structure, inputs, gradients, n_uses) in ended.sums.items():
            mean = structure.input_moments(inputs / n_uses)
            for matrix, moment in mean.items():
                add(self._inputs, (name, matrix), moment, inputs.shape[-1])
            for matrix, moment in structure.output_moments(gradients).items():
                ended.add_moment((name, matrix), moment, call)
        ended.add_several()
        n_samples = (
            ended.n_rows if ended.n_rows is not None else next(iter(ended.rows.values()), [0, 0, 0])[2]
        )
        if not n_samples:
            return None
        terms = ended.terms or (_learned(ended) if loss == "learned" else None)
        if terms is None and loss == "sum":
            terms = Terms("a sum", ended.scale, float(ended.n_rows or 0))
        # A further pass over the same calls is that of a further part of the loss, of the same samples.
        known = set[Call]().union(*self._calls.values())
        is_new = not known.issuperset(call for calls in ended.calls.values() for call in calls)
        shares, sizes, counts = {}, {}, {}
        for name, calls in ended.calls.items():
            looked_at, there_were, _ = ended.rows[name]
            counted = self._calls.setdefault(name, set())
            shares[name] = 0.0 if counted.issuperset(calls) else looked_at / max(there_were, 1)
            sizes[name] = ended.n_samples(name)
            counts[name] = sizes[name] * shares[name]
            counted.update(calls)
        if terms is None and is_new:
            self._unscaled_passes.append({name for (name, _), _ in ended.moments})
        elif terms is not None and loss == "learned" and terms.n:
            self._factors.append(terms.weight * terms.n / ended.scale)
        elif terms is not None and loss == "learned" and is_new:
            self._without_gradient.append({key: counts[key[0]] for key, _ in ended.moments})
        added: set[Key] = set()
        for (key, n_rows), moment in ended.moments.items():
            n, share = sizes[key[0]], 0.0 if key in added else shares[key[0]]
            added.add(key)
            if terms is not None:
                factor = terms.weight**-2
                n_terms = n if loss == "sum" and ended.terms is None else terms.n
                add(self._gradients, key, moment.mul_(factor) if factor != 1 else moment, n_terms * share)
            else:
                own = n if ended.n_rows is None or n_rows is None else n_rows
                add(self._unscaled, key, moment.mul_((math.sqrt(n * own) / ended.scale) ** 2), n * share)
        return terms or Terms("a mean over dimension 0", ended.scale / n_samples, float(n_samples))

    def take(self, scale: float) -> dict[Key, Moments]:
        """Return all moments and forget them.

        Args:
            scale: Factor of the losses of all passes, used for passes whose scale is not known.
        """
        found = {**self._inputs, **self._gradients}
        if self._factors:
            # ASSUME: all passes of a step have the same loss, so the factor of the recognized ones holds for all.
            factor = (len(self._factors) / sum(self._factors)) ** 2
        else:
            # ASSUME: the accumulated loss is a mean over the passes, so each was divided by their number.
            factor = ((self.n_unscaled + len(self._without_gradient)) / scale) ** 2
            for samples in self._without_gradient:
                for key in samples.keys() & self._unscaled.keys():
                    moments = self._unscaled[key]
                    self._unscaled[key] = Moments(moments.total, moments.n + samples[key])
        for key, moments in self._unscaled.items():
            moments.total.mul_(factor)
            other = found.get(key)
            found[key] = (
                moments
                if other is None
                else Moments(other.total.double().add_(moments.total), other.n + moments.n)
            )
        self.forget_all()
        return found


def add(sums: dict[Key, Moments], key: Key, moment: Tensor, n: float) -> None:
    """Add a moment to the sum under a key."""
    former = sums.get(key)
    # The moment of a single pass keeps its type; with the second pass the sum becomes double precision.
    sums[key] = (
        Moments(moment, n) if former is None else Moments(former.total.double().add_(moment), former.n + n)
    )


def _unfolded(columns: Tensor, n: int, n_folded: int) -> Tensor:
    """Bring columns of (positions, samples, folded rows) into the order (positions, folded rows, samples)."""
    if n_folded == 1:
        return columns
    return columns.reshape(*columns.shape[:-1], -1, n, n_folded).mT.flatten(-3)


def _learned(ended: Pass) -> Terms | None:
    """The terms inferred from the network's outputs or, if these tell nothing, from those of its last layer."""
    return _together(ended.scores) or _together(ended.last_scores)


def _together(found: Mapping[Call, Mapping[int, Terms | None]]) -> Terms | None:
    """Combine the terms inferred from all calls of the network in a pass; each call adds terms to the loss."""
    calls = [_largest([terms for _, terms in sorted(outputs.items())]) for outputs in found.values()]
    known = [terms for terms in calls if terms is not None]
    if not known or len(known) < len(calls):
        return None
    live = [terms for terms in known if terms.n]
    if not live:
        return known[0]
    if len(live) == 1:
        return live[0]
    n = sum(terms.n for terms in live)
    return Terms(live[0].source, n / sum(terms.n / terms.weight for terms in live), n)


def _largest(outputs: Sequence[Terms | None]) -> Terms | None:
    """Return the terms of the output whose loss weighs most; this output sets the scale."""
    known = [terms for terms in outputs if terms is not None]
    return max(known, key=lambda terms: terms.weight * terms.n, default=None)
