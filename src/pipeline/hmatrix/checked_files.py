"""Arrays and a description in a folder: a safetensors file and JSON, all with checksums. No pickle."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline.errors import ArtifactError


@dataclass(frozen=True)
class CheckedFiles:
    """A format of two files, every byte of which is covered by a checksum (SHA-256).

    Attributes:
        stem: Name of the files without suffix.
        what: What the folder holds, as error texts name it.
        version: Version of the format; files of another version are refused.
        again: Remedy for a damaged folder, as error texts state it.
    """

    stem: str
    what: str
    version: int
    again: str

    @property
    def description_name(self) -> str:
        return f"{self.stem}.json"

    @property
    def arrays_name(self) -> str:
        return f"{self.stem}.safetensors"

    def write(self, path: Path, description: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Write into a folder, which is made if need be; the description is written last."""
        path.mkdir(parents=True, exist_ok=True)
        stored = {name: _as_real(np.ascontiguousarray(values)) for name, values in arrays.items()}
        description = {"version": self.version} | description
        description["complex"] = [name for name, values in arrays.items() if values.dtype.kind == "c"]
        description["checksums"] = {name: _checksum(values) for name, values in stored.items()}
        description["checksum"] = _checksum_of_text(description)
        description_path = path / self.description_name
        description_path.unlink(missing_ok=True)
        save_file(stored, path / self.arrays_name)
        description_path.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")

    def remove(self, path: Path) -> None:
        """Remove the files from a folder, if they are there."""
        for name in (self.description_name, self.arrays_name):
            (path / name).unlink(missing_ok=True)

    def read(self, path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the description and the arrays that `write` wrote.

        Raises:
            ArtifactError: If the folder holds none, one of another version, or one that has been damaged.
        """
        try:
            description = json.loads((path / self.description_name).read_text(encoding="utf-8"))
            arrays = load_file(path / self.arrays_name)
        except FileNotFoundError as error:
            described = (path / self.description_name).exists()
            missing = self.arrays_name if described else self.description_name
            raise ArtifactError(f"{path} holds no {self.what}: {missing} is missing") from error
        except (ValueError, SafetensorError) as error:
            raise ArtifactError(f"{path} holds a damaged {self.what}: {error}") from error
        if not isinstance(description, dict) or description.get("version") != self.version:
            version = description.get("version") if isinstance(description, dict) else None
            raise ArtifactError(
                f"{path} holds {self.what} files of version {version}, and this program reads version {self.version}; "
                f"{self.again}"
            )
        if description.pop("checksum", None) != _checksum_of_text(description):
            raise self.damaged(path, f"{self.description_name} differs from what was written")
        if set(arrays) != set(description["checksums"]):
            raise self.damaged(path, f"{self.arrays_name} differs from what was written")
        for name, checksum in description["checksums"].items():
            if _checksum(arrays[name]) != checksum:
                raise self.damaged(
                    path, f"the array {name} of {self.arrays_name} differs from what was written"
                )
        for name in description["complex"]:
            arrays[name] = np.ascontiguousarray(arrays[name]).view(
                np.result_type(arrays[name].dtype, np.complex64)
            )[..., 0]
        return description, arrays

    def damaged(self, path: Path, reason: object) -> ArtifactError:
        """Return the error that says what is wrong with the files of a folder."""
        return ArtifactError(f"{path} holds a damaged {self.what}: {reason}; {self.again}")


def _checksum(values: NDArray[Any]) -> str:
    """Return the SHA-256 of an array's type, shape and bytes."""
    digest = hashlib.sha256(f"{values.dtype.str} {values.shape}".encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _checksum_of_text(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _as_real(values: NDArray[Any]) -> NDArray[Any]:
    """Return complex numbers as pairs of reals in a last dimension: safetensors' NumPy side knows no complex ones."""
    if values.dtype.kind != "c":
        return values
    real = np.float32 if values.dtype == np.complex64 else np.float64
    return np.ascontiguousarray(values).view(real).reshape(*values.shape, 2)
