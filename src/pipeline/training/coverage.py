"""Which parameters are preconditioned, which are not, and why; a use that hooks miss is warned of once."""

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pipeline.runtime.communicator import Communicator
from pipeline.training.capture import Capture
from pipeline.training.curvature import Curvature
from pipeline.training.structures import Structure


class Coverage:
    """Which parameters of a network are preconditioned, as far as its passes have shown.

    Args:
        layers: The layers that could be preconditioned, by name.
        weights: The trained parameters by name.
        reasons: Why a parameter that belongs to no layer keeps its gradient, by the parameter's name.
        communicator: The processes that train together.

    Attributes:
        preconditioned: Names of the layers whose gradients are rewritten.
        not_preconditioned: Names of the trained parameters that keep their gradients.
        reasons: Why a parameter keeps its gradient, by name, for those that one might expect to be preconditioned.
        left: Layers that are not preconditioned because hooks do not see all uses of their weights, or see them for all
            samples together.
    """

    def __init__(
        self,
        layers: Mapping[str, Structure],
        weights: Mapping[str, Tensor],
        reasons: Mapping[str, str],
        communicator: Communicator,
    ) -> None:
        self.left: set[str] = set()
        self.reasons = dict(reasons)
        self._layers = layers
        self._weights = weights
        self._rank = communicator.rank
        self._differentiated = False
        self._proven: set[str] = set()  # layers of `left` that stay so, because functions were watched, too
        self._without_samples: set[str] = set()  # those of `_proven` with the same inputs for all samples
        self._silent: set[str] = set()  # layers that a warning has named
        self._unseen: set[str] = set()  # layers of `_silent` that have still not been seen
        self._list()

    def update(self, capture: Capture, curvature: Curvature) -> None:
        """Update from the passes of a step; all processes must call it together."""
        same, partly = curvature.in_any_process(capture.without_samples, capture.partly_seen)
        self._find_without_samples(same)
        self._find_partly_seen(partly, capture)
        self._find_silent(capture, curvature)
        capture.survey()  # a use may be switched on later
        if capture.differentiated and not self._differentiated and self._rank == 0:
            self._differentiated = True
            warnings.warn(
                "the network was differentiated by its inputs with create_graph: if the loss contains the derivatives, "
                "K-FAC's factors cover what depends on the network's values, not the derivatives' own use of weights",
                stacklevel=5,
            )

    def state(self) -> dict[str, list[str]]:
        """Return what a resumed run needs, as plain names."""
        return {
            "left": sorted(self.left),
            "proven": sorted(self._proven),
            "without_samples": sorted(self._without_samples),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; a state of an earlier version lacks it, and other entries are ignored."""
        self.left, self._proven, self._without_samples = (
            {name for name in state.get(key, ()) if name in self._layers}
            for key in ("left", "proven", "without_samples")
        )
        self._list()

    def _find_without_samples(self, named: set[str]) -> None:
        found = named - self._without_samples
        if not found:
            return
        self._without_samples |= found
        self._proven |= found
        self._list()
        if self._rank == 0:
            warnings.warn(
                f"K-FAC does not precondition layer {', '.join(sorted(found))}: {_SAME}, as those of an embedding of "
                "positions; expand them to the batch to have its layer preconditioned",
                stacklevel=6,
            )

    def _find_partly_seen(self, named: set[str], capture: Capture) -> None:
        found = named - self._proven
        self.left = self._proven | found
        if not found:
            return
        if not capture.watches_functions:
            capture.watches_functions = True  # next time the uses by functions are seen, too
            capture.partly_seen = set()
            return
        self._proven |= found
        self._list()
        if self._rank == 0:
            warnings.warn(
                f"K-FAC does not precondition layer {', '.join(sorted(found))}: {_USED}, as in a matrix product or "
                "transposed, which no hook sees",
                stacklevel=6,
            )

    def _find_silent(self, capture: Capture, curvature: Curvature) -> None:
        seen = curvature.seen | capture.called
        if self._unseen & seen:
            self._unseen -= seen
            self._list()
        known = seen | self._silent
        silent = [name for name in self._layers if name not in known]
        if silent and not capture.watches_functions:
            # Some networks apply the weights of a layer by a function of their own; the next statistics will tell.
            capture.watches_functions = True
            return
        self._silent.update(silent)
        if silent:
            self._unseen.update(silent)
            self._list()
        if silent and self._rank == 0:
            why = (
                "passes in evaluation mode do not count, so call train() on the network first, and then eval() on the "
                "parts that are to stay in evaluation mode"
                if capture.evaluated and not capture.called
                else "a layer that is used other than by calling it or torch.nn.functional.linear keeps its gradient. "
                "Code compiled before K-FAC was attached calls no hooks; call torch.compiler.reset()"
            )
            warnings.warn(f"K-FAC saw no pass through layer {', '.join(silent)}; {why}", stacklevel=6)

    def _list(self) -> None:
        aside = self._proven | self._unseen
        self.preconditioned = tuple(name for name in self._layers if name not in aside)
        covered = {id(p) for name in self.preconditioned for p in self._layers[name].parameters}
        self.not_preconditioned = tuple(name for name, p in self._weights.items() if id(p) not in covered)
        for names, why in (
            (self._proven - self._without_samples, _USED),
            (self._without_samples, _SAME),
            (self._unseen, _UNSEEN),
        ):
            of_them = {id(p) for name in names for p in self._layers[name].parameters}
            self.reasons |= {name: why for name, p in self._weights.items() if id(p) in of_them}
        named = set(self.not_preconditioned)
        self.reasons = {name: why for name, why in self.reasons.items() if name in named}


_UNSEEN = "no pass has come through its layer"
_SAME = "its inputs are the same for all samples"
_USED = "the network also uses its weight other than by calling the layer"
