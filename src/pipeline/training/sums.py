"""Sums of statistics over all passes of a step, rescaled to gradients of single samples."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from pipeline.training.loss_terms import Terms
from pipeline.training.passes import Call, Key, Loss, Moments, Pass


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
