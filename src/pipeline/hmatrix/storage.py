"""H2 matrices in folders, with checksums (`checked_files.py`).

The kernel is stored by its name in the registry and its parameters, so that any process can evaluate new entries.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.hmatrix import kernels
from pipeline.hmatrix.admissibility import ADMISSIBILITIES, Admissibility, Interactions, Lists
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.checked_files import CheckedFiles
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.geometry import Geometry
from pipeline.hmatrix.shard_files import DESCRIPTION as SHARDS
from pipeline.hmatrix.shard_files import remove_shards
from pipeline.hmatrix.shards import load_whole
from pipeline.hmatrix.skeleton import Basis
from pipeline.hmatrix.validation import require_sound

_FILES = CheckedFiles("h2matrix", "H2 matrix", 2, "compress it again")
_PARTS: dict[str, type] = {
    "rows": ClusterTree,
    "columns": ClusterTree,
    "row_basis": Basis,
    "column_basis": Basis,
    "near": Blocks,
    "far": Blocks,
}
_LISTS = ("near", "far", "near_columns", "far_columns")


def save(A: H2Form, path: Path) -> None:
    """Write a matrix into a folder, which is made if need be; the description is written last.

    A matrix that was in the folder, whole or in shards, is replaced.

    Raises:
        ConfigError: If the kernel is a Python function, which cannot be written.
    """
    A.require_blocks()
    kernel = None if A.kernel is None else A.kernel.to_dict()
    arrays: dict[str, NDArray[Any]] = {}
    for name, kind in _PARTS.items():
        if _is_shared(A, name):
            continue
        part = getattr(A, name)
        for f in fields(kind):
            value = getattr(part, f.name)
            if isinstance(value, np.ndarray):
                arrays[f"{name}.{f.name}"] = np.ascontiguousarray(value)
    for name in _LISTS:
        lists = getattr(A.interactions, name)
        arrays[f"interactions.{name}.start"], arrays[f"interactions.{name}.boxes"] = lists.start, lists.boxes
    if A.correction is not None:
        arrays |= {
            f"correction.{part}": getattr(A.correction, part) for part in ("indptr", "indices", "data")
        }
    if A.diagonal_term is not None:
        arrays["diagonal_term"] = A.diagonal_term
    description = {
        "shape": list(A.shape),
        "kernel": kernel,
        "tolerance": A.tolerance,
        "norm": A.norm,
        "dtype": A.dtype.name,
        "mirrored": A.mirrored,
        "square": A.is_square,
        "arity": [A.rows.arity, A.columns.arity],
        "one_basis": A.row_basis is A.column_basis,
        "admissibility": {"name": A.admissibility.name}
        | {f.name: getattr(A.admissibility, f.name) for f in fields(A.admissibility)},
        "notes": list(A.notes),
    }
    remove_shards(path)
    _FILES.write(path, description, arrays)


def remove(path: Path) -> None:
    """Remove a matrix from a folder, whole or in shards."""
    remove_shards(path)
    _FILES.remove(path)


def load(path: Path) -> H2Form:
    """Read a matrix that `save` wrote, or the shards of a divided one.

    Raises:
        ArtifactError: If the folder holds none, one of another version, or one that has been damaged: everything has a
            checksum (SHA-256), and indices are checked before native routines follow them.
    """
    if (path / SHARDS).exists():
        return load_whole(path)
    description, arrays = _FILES.read(path)
    parts: dict[str, Any] = {}
    for number, (name, kind) in enumerate(_PARTS.items()):
        prefix = f"{name}."
        found = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
        if kind is ClusterTree and found:
            found["arity"] = description["arity"][number]
        parts[name] = kind(**found) if found else None
    if description["square"]:
        parts["columns"] = parts["rows"]
    if description["one_basis"]:
        parts["column_basis"] = parts["row_basis"]
    admissibility = dict(description["admissibility"])
    rule: Admissibility = ADMISSIBILITIES[admissibility.pop("name")](**admissibility)
    shape = tuple(description["shape"])
    lists = Interactions(
        **{n: Lists(arrays[f"interactions.{n}.start"], arrays[f"interactions.{n}.boxes"]) for n in _LISTS}
    )
    form = H2Form(
        geometry=Geometry(parts.pop("rows"), parts.pop("columns"), rule, lists),
        **parts,
        mirrored=description["mirrored"],
        diagonal_term=arrays.get("diagonal_term"),
        kernel=None if description["kernel"] is None else kernels.from_dict(description["kernel"]),
        tolerance=description["tolerance"],
        norm=description["norm"],
        dtype=np.dtype(description["dtype"]),
        notes=tuple(description["notes"]),
        correction=csr_array(
            tuple(arrays[f"correction.{part}"] for part in ("data", "indices", "indptr")), shape=shape
        )
        if "correction.data" in arrays
        else None,
    )
    try:
        require_sound(form)
    except ValueError as error:
        raise _FILES.damaged(path, error) from error
    return form


def _is_shared(A: H2Form, name: str) -> bool:
    return (name == "columns" and A.is_square) or (name == "column_basis" and A.row_basis is A.column_basis)
