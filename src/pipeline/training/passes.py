"""Statistics of layers from calls of a network and backward passes, as sums over single samples.

A *pass* is a call of `backward`; all uses of a layer in one call of the network belong to the same samples. A layer's
inputs count once a pass has reached its outputs: a call without a pass leaves no trace.
"""

from collections.abc import Mapping
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


def _unfolded(columns: Tensor, n: int, n_folded: int) -> Tensor:
    """Bring columns of (positions, samples, folded rows) into the order (positions, folded rows, samples)."""
    if n_folded == 1:
        return columns
    return columns.reshape(*columns.shape[:-1], -1, n, n_folded).mT.flatten(-3)
