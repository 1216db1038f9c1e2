"""What a training with K-FAC is resumed from."""

from collections.abc import Collection
from typing import Any, TypedDict

from torch import Tensor

COUNTS = ("n_retries", "n_stale", "n_skipped", "n_averaged")  # attributes of `Curvature`


class KFACState(TypedDict):
    """What a resumed run needs: matrices by "factor/A/layer" and plain numbers."""

    tensors: dict[str, Tensor]
    scalars: dict[str, Any]


def without(state: KFACState, layers: Collection[str]) -> KFACState:
    """Return a state without some layers."""
    tensors = {path: M for path, M in state["tensors"].items() if path.split("/", 2)[2] not in layers}
    kept = {key: [name for name in state["scalars"][key] if name not in layers] for key in ("layers", "seen")}
    return {"tensors": tensors, "scalars": {**state["scalars"], **kept}}


def require_state(state: KFACState, layers: Collection[str]) -> None:
    """Raise ValueError unless a state is a complete state of K-FAC for a network with these layers.

    Raises:
        ValueError: If it is not; missing layers are named.
    """
    if not {"layers", "seen", "damping", *COUNTS} <= set(state.get("scalars", ())):
        raise ValueError("this is no state of K-FAC; load what its state_dict returned")
    theirs, seen = state["scalars"]["layers"], set(state["scalars"]["seen"])
    for here, there, place in ((layers, theirs, "the state"), (theirs, layers, "the network")):
        missing = [name for name in here if name not in there]
        if missing:
            raise ValueError(
                f"{place} lacks layer {', '.join(missing)} of K-FAC; load a state of this network, or none"
            )
    held = {path.split("/", 2)[2] for path in state["tensors"]}
    if lacking := sorted(seen - held):
        raise ValueError(
            f"the K-FAC state lacks the matrices of layer {', '.join(lacking)}; load the whole state"
        )
