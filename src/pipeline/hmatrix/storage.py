"""H2 matrices in folders: tensors in one safetensors file, the rest in JSON. No pickle.

The kernel is stored by its name in the registry and its parameters, so that any process can evaluate new entries.
"""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_array

from pipeline.errors import ArtifactError
from pipeline.hmatrix import kernels
from pipeline.hmatrix.admissibility import ADMISSIBILITIES, Admissibility, Interactions, Lists
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.geometry import Geometry
from pipeline.hmatrix.shards import DESCRIPTION as SHARDS
from pipeline.hmatrix.shards import load_whole
from pipeline.hmatrix.skeleton import Basis
from pipeline.hmatrix.validation import require_sound

_VERSION = 2
_DESCRIPTION, _ARRAYS = "h2matrix.json", "h2matrix.safetensors"
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

    Raises:
        ConfigError: If the kernel is a Python function, which cannot be written.
    """
    kernel = None if A.kernel is None else A.kernel.to_dict()
    path.mkdir(parents=True, exist_ok=True)
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
        "version": _VERSION,
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
        "complex": [name for name, values in arrays.items() if values.dtype.kind == "c"],
    }
    stored = {name: _as_real(values) for name, values in arrays.items()}
    description["checksums"] = {name: _checksum(values) for name, values in stored.items()}
    description["checksum"] = _checksum_of_text(description)
    description_path = path / _DESCRIPTION
    description_path.unlink(missing_ok=True)
    save_file(stored, path / _ARRAYS)
    description_path.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load(path: Path) -> H2Form:
    """Read a matrix that `save` wrote, or the shards of a divided one.

    Raises:
        ArtifactError: If the folder holds none, one of another version, or one that has been damaged: everything has a
            checksum (SHA-256), and indices are checked before native routines follow them.
    """
    if (path / SHARDS).exists():
        return load_whole(path)
    try:
        description = json.loads((path / _DESCRIPTION).read_text(encoding="utf-8"))
        arrays = load_file(path / _ARRAYS)
    except FileNotFoundError as error:
        missing = _ARRAYS if (path / _DESCRIPTION).exists() else _DESCRIPTION
        raise ArtifactError(f"{path} holds no H2 matrix: {missing} is missing") from error
    except (ValueError, SafetensorError) as error:
        raise ArtifactError(f"{path} holds a damaged H2 matrix: {error}") from error
    if not isinstance(description, dict) or description.get("version") != _VERSION:
        version = description.get("version") if isinstance(description, dict) else None
        raise ArtifactError(
            f"{path} holds an H2 matrix of version {version}, and this program reads version {_VERSION}; compress it "
            "again"
        )
    if description.pop("checksum", None) != _checksum_of_text(description):
        raise _damaged(path, _DESCRIPTION)
    if set(arrays) != set(description["checksums"]):
        raise _damaged(path, _ARRAYS)
    for name, checksum in description["checksums"].items():
        if _checksum(arrays[name]) != checksum:
            raise _damaged(path, f"the array {name} of {_ARRAYS}")
    for name in description["complex"]:
        arrays[name] = np.ascontiguousarray(arrays[name]).view(
            np.result_type(arrays[name].dtype, np.complex64)
        )[..., 0]
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
        raise ArtifactError(f"{path} holds a damaged H2 matrix: {error}; compress it again") from error
    return form


def _damaged(path: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"{path} holds a damaged H2 matrix: {what} is not what was written; compress it again"
    )


def _checksum(values: NDArray[Any]) -> str:
    """Return the SHA-256 of an array's type, shape and bytes."""
    digest = hashlib.sha256(f"{values.dtype.str} {values.shape}".encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _checksum_of_text(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _is_shared(A: H2Form, name: str) -> bool:
    return (name == "columns" and A.is_square) or (name == "column_basis" and A.row_basis is A.column_basis)


def _as_real(values: NDArray[Any]) -> NDArray[Any]:
    """Return complex numbers as pairs of reals in a last dimension: safetensors' NumPy side knows no complex ones."""
    if values.dtype.kind != "c":
        return values
    real = np.float32 if values.dtype == np.complex64 else np.float64
    return np.ascontiguousarray(values).view(real).reshape(*values.shape, 2)
