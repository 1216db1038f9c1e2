"""Factorizations in folders, with checksums; indices are checked before native routines follow them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.hmatrix.batched.steps import BatchedSteps, Elimination
from pipeline.hmatrix.checked_files import CheckedFiles
from pipeline.hmatrix.inputs import CPU
from pipeline.hmatrix.parts import Substitution
from pipeline.hmatrix.parts.substitution import LocalStage, StepsView
from pipeline.hmatrix.parts.team import Tally
from pipeline.hmatrix.trust import Trust

_FILES = CheckedFiles("factorization", "factorization", 1, "factorize again")
_KNOWN: dict[str, type] = {
    kind.__name__: kind for kind in (StepsView, LocalStage, Trust, BatchedSteps, Elimination)
}


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write the fields of a factorization into a folder, which is made if need be; the description is written last.

    Raises:
        TypeError: If the parts are spread over processes.
    """
    steps = state["steps"]
    parted = isinstance(steps, Substitution)
    if isinstance(steps, Substitution):
        steps = {name: value for name, value in steps.__getstate__().items() if name != "tally"}
    rest = {name: value for name, value in state.items() if name not in ("steps", "device")}
    arrays: dict[str, NDArray[Any]] = {}
    description = {"parted": parted, "state": _encode(rest, arrays), "steps": _encode(steps, arrays)}
    _FILES.write(path, description, arrays)


def load(path: Path, kinds: Mapping[str, int]) -> dict[str, Any]:
    """Read the fields that `save` wrote, for a factorization on the CPU.

    Args:
        path: The folder.
        kinds: Numbers of the kinds in native/eliminate.hpp.

    Raises:
        ArtifactError: If the folder holds none, one of another version, or one that has been damaged.
    """
    description, arrays = _FILES.read(path)
    try:
        state, steps = (_decode(description[name], arrays) for name in ("state", "steps"))
        n = len(state["permutation"])
        _require(
            np.array_equal(np.sort(state["permutation"]), np.arange(n)), "permutation is not of the points"
        )
        if description["parted"]:
            _require_sound(steps, n, kinds[state["kind"]], kinds)
            substitution = Substitution.__new__(Substitution)
            substitution.__setstate__(steps | {"tally": Tally()})
            steps = substitution
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _FILES.damaged(path, error) from error
    return {**state, "steps": steps, "device": CPU}


def _encode(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Encode a value of plain types, arrays and known classes for JSON; arrays go into `arrays`."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, np.dtype):
        return {"dtype": value.name}
    if isinstance(value, np.generic):
        return _encode(value.item(), arrays)
    if isinstance(value, np.ndarray | torch.Tensor):
        name = f"{len(arrays):06d}"
        arrays[name] = value if isinstance(value, np.ndarray) else value.cpu().numpy()
        return {"array" if isinstance(value, np.ndarray) else "tensor": name}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_encode(item, arrays) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_encode(k, arrays), _encode(v, arrays)] for k, v in value.items()]}
    kind = _KNOWN[type(value).__name__]
    found = {f.name: _encode(getattr(value, f.name), arrays) for f in fields(kind)}
    return {"class": kind.__name__, "fields": found}


def _decode(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Return what `_encode` was given."""
    if not isinstance(value, dict):
        return value
    if "class" in value:
        return _KNOWN[value["class"]](**{k: _decode(v, arrays) for k, v in value["fields"].items()})
    ((kind, inner),) = value.items()
    if kind == "dict":
        return {_decode(k, arrays): _decode(v, arrays) for k, v in inner}
    if kind in ("tuple", "list"):
        items = [_decode(item, arrays) for item in inner]
        return tuple(items) if kind == "tuple" else items
    readers: dict[str, Callable[[Any], Any]] = {
        "float": float,
        "complex": lambda parts: complex(*parts),
        "dtype": np.dtype,
        "array": arrays.__getitem__,
        "tensor": lambda name: torch.from_numpy(arrays[name]),
    }
    return readers[kind](inner)


def _require_sound(steps: dict[str, Any], n: int, kind: int, kinds: Mapping[str, int]) -> None:
    """Raise ValueError unless all indices and lengths of a factorization by parts fit together."""
    _require(steps["_kind"] == kind, "its kind is not that of its steps")
    bounds = [steps["_bounds"][part] for part in sorted(steps["_bounds"])]
    edges = [0, *(stop for _, stop in bounds)]
    _require(
        [start for start, _ in bounds] == edges[:-1] and edges[-1] == n, "parts do not divide the points"
    )
    sizes = steps["_sizes"]
    for stage in steps["_stages"]:
        for part, views in stage.steps.items():
            for view in views:
                _require(view.stored == steps["_stored"], "steps are of another type")
                _require_view(view, sizes[part], kind, kinds)
        for here, there in ((stage.halo, stage.asked), (stage.left, stage.came)):
            for (part, other), places in here.items():
                _require(
                    len(there[other, part]) == len(places),
                    f"parts {part} and {other} exchange lists of different lengths",
                )
        for table in (stage.halo, stage.asked, stage.left, stage.came):
            for (part, _), places in table.items():
                _require_within(places, sizes[part], "a list of an exchange")


def _require_view(view: StepsView, size: int, kind: int, kinds: Mapping[str, int]) -> None:
    counts = view.counts.reshape(-1, 3).astype(np.int64)
    _require((counts >= 0).all() and (counts[:, 1] <= counts[:, 2]).all(), "counts of steps are negative")
    d, k, n = counts.T
    _require(len(view.index) == int((d + n).sum()), "index has a wrong length")
    _require_within(view.index, size, "index")
    cholesky, general = kind == kinds["cholesky"], kind == kinds["lu"]
    factor = d * (d + 1) // 2 if cholesky else d * d
    sides = 2 if general else 1
    _require(len(view.values) == int((d * k + factor + sides * n * d).sum()), "values have a wrong length")
    if not cholesky:
        _require(len(view.pivots) == int(d.sum()), "pivots have a wrong length")
        # LAPACK's pivots are row numbers of each block, from 1.
        inside = (view.pivots >= 1) & (view.pivots <= np.repeat(d, d))
        _require(inside.all(), "pivots lie outside their block")


def _require_within(places: NDArray[Any], size: int, name: str) -> None:
    _require(
        len(places) == 0 or (places.min() >= 0 and places.max() < size),
        f"{name} has entries outside 0 to {size - 1}",
    )


def _require(holds: Any, what: str) -> None:
    if not holds:
        raise ValueError(what)
