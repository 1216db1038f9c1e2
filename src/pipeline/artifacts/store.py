"""Artefacts: folders of fixed-name files that are complete when, and only when, their manifest is there.

`create` writes the files, then `manifest.json` last, by rename. A killed job, a full disk or a power cut therefore
leaves no manifest, and the workflow, which names only manifests, does the work again. The manifest holds every file's
size and sha256: `Artifact.open` refuses files that were altered. Weights are safetensors, arrays `.npy`, tables CSV,
the rest JSON.
"""

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json, to_jsonable_python

from pipeline.artifacts.disk import (
    Patience,
    errors_of_the_disk,
    flush,
    make_folder_of,
    sha256_of,
    share,
    write_atomically,
)
from pipeline.artifacts.provenance import Provenance
from pipeline.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA_VERSION = 1


@dataclass
class Draft:
    """An artefact that is being written."""

    folder: Path
    provenance: Provenance
    arrays: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: BaseModel | Mapping[str, Any] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def path(self, name: str) -> Path:
        """Register a file, or a folder of files, that the caller writes; the target of a link stays as it is."""
        self.names.add(name)
        path = self.folder / name
        if path.is_symlink():
            path.unlink()
        return path

    def save_array(self, name: str, array: NDArray[Any], unit: str = "1") -> None:
        """Write `name.npy` and note its shape, dtype and unit in the manifest."""
        np.save(self.path(f"{name}.npy"), array)
        self.arrays[name] = {"shape": list(array.shape), "dtype": str(array.dtype), "unit": unit}

    def save_array_in_parts(
        self,
        name: str,
        parts: Iterable[NDArray[Any]],
        *,
        shape: tuple[int, ...],
        unit: str = "1",
        dtype: str = "float64",
    ) -> None:
        """Write `name.npy`, of that shape and type, from parts of its rows, which need not be in memory together."""
        kind = np.dtype(dtype).newbyteorder("<")
        with self.path(f"{name}.npy").open("wb") as file:
            header = {"descr": kind.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                file.write(np.ascontiguousarray(part, dtype=kind).data)
        self.arrays[name] = {"shape": list(shape), "dtype": dtype, "unit": unit}

    def save_tensors(self, name: str, tensors: Mapping[str, Any]) -> None:
        from safetensors.torch import save_file

        path = self.path(f"{name}.safetensors")
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
        share(path)

    def save_table(self, name: str, rows: Iterable[Any], *, without: Collection[str] = ()) -> None:
        """Write `name.csv` from mappings, models or dataclasses with equal fields; fields in `without` are left out."""
        table = [
            {key: cell for key, cell in to_jsonable_python(row, fallback=str).items() if key not in without}
            for row in rows
        ]
        with self.path(f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(table[0]) if table else [])
            writer.writeheader()
            writer.writerows(table)

    def save_json(self, name: str, data: Any) -> None:
        """Write `name.json` from plain values, models and dataclasses; numbers that JSON lacks become null."""
        self.save_text(f"{name}.json", json.dumps(_jsonable(data), indent=1) + "\n")

    def save_text(self, name: str, text: str) -> None:
        self.path(name).write_text(text, encoding="utf-8")


def _jsonable(value: Any) -> Any:
    """Return models and dataclasses as mappings, and numbers that JSON cannot hold as None."""
    return json.loads(to_json(value, inf_nan_mode="null"))


@contextmanager
def create(
    manifest: Path, *, kind: str, spec: BaseModel | Mapping[str, Any], provenance: Provenance
) -> Iterator[Draft]:
    """Write an artefact; its manifest appears when the block ends without an error, and readers ask for its kind.

    Its folder is made, and a former manifest is removed first. When the disk is full or not writable, or the folder
    cannot be made, it is an ArtifactError, and there is no manifest.
    """
    folder = manifest.parent
    make_folder_of(manifest)
    with errors_of_the_disk(folder):
        manifest.unlink(missing_ok=True)
        draft = Draft(folder, provenance)
        yield draft
        files = {}
        for path in (folder / name for name in sorted(draft.names)):
            for file in sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]:
                flush(file)
                listed = {"n_bytes": file.stat().st_size, "sha256": sha256_of(file)}
                files[str(file.relative_to(folder))] = listed
        content = {
            "kind": kind,
            "schema_version": SCHEMA_VERSION,
            "facts": _jsonable(draft.facts),
            "spec": _jsonable(spec),
            "arrays": draft.arrays,
            "files": files,
            "provenance": _jsonable(draft.provenance),
        }
        write_atomically(manifest, json.dumps(content, indent=1) + "\n")


F = TypeVar("F", bound=BaseModel)


def _checked(kind: type[F], content: Any, where: str) -> F:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        why = f"{path}: {first['msg'].lower()}"
        raise ArtifactError(
            f"{where}: written by another version of this program ({why}); delete the manifest and run snakemake again"
        ) from None


@dataclass(frozen=True)
class Artifact:
    """A complete artefact, checked against its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path, kind: str = "", *, contents: bool = True) -> "Artifact":
        """Read a manifest and verify every file that it lists.

        The workflow waits only for a manifest. On a shared file system the files beside it may appear later, so a file
        that is missing or has another size is looked for again, up to a minute. An empty `kind` takes any. Of several
        processes that read the same artefact, one computes the checksums of its `contents`. It is an ArtifactError if
        the artefact is missing, of another kind or version, or a file of it was altered or lost.
        """
        again = "delete its manifest and run snakemake again"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            found, version, files = manifest["kind"], manifest["schema_version"], manifest["files"]
        except FileNotFoundError:
            raise ArtifactError(f"{path}: no such artefact; run snakemake to make it") from None
        except (OSError, ValueError, KeyError, TypeError):
            # A file may be deleted on our advice only if it has a manifest's name.
            advice = again if path.name == "manifest.json" else "name the manifest.json of an artefact"
            raise ArtifactError(f"{path}: not a manifest; {advice}") from None
        if kind and found != kind:
            raise ArtifactError(f"{path}: expected a manifest of kind '{kind}', found '{found}'")
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{path}: schema version {version}, this program reads {SCHEMA_VERSION}; {again}"
            )
        patience = Patience()
        for name, listed in files.items():
            file = path.parent / name
            while (n_bytes := file.stat().st_size if file.is_file() else None) != listed["n_bytes"]:
                if patience.ended:
                    waited = f"{patience.seconds:.0f} s later too"
                    what = (
                        f"listed in the manifest but missing, {waited}"
                        if n_bytes is None
                        else f"altered since it was written (size differs from the manifest's, {waited})"
                    )
                    raise ArtifactError(f"{file}: {what}; {again}")
                patience.pause()
            if contents and sha256_of(file) != listed["sha256"]:
                raise ArtifactError(
                    f"{file}: altered since it was written (checksum differs from the manifest's); {again}"
                )
        return cls(path.parent, manifest)

    @property
    def provenance(self) -> Provenance:
        """Who made the artefact, and of what; raises as `facts_as` does."""
        where = f"{self.folder / 'manifest.json'}: provenance"
        return _checked(Provenance, self.manifest.get("provenance"), where)

    @property
    def facts(self) -> Mapping[str, Any]:
        facts: Mapping[str, Any] = self.manifest["facts"]
        return facts

    def facts_as(self, kind: type[F]) -> F:
        """The facts as an instance of a class; ArtifactError if one is missing or of another version's type."""
        return _checked(kind, self.facts, f"{self.folder / 'manifest.json'}: facts")

    def spec_as(self, kind: type[F]) -> F:
        """Return the spec that the artefact was made from, as an instance of a class; raises as `facts_as` does."""
        return _checked(kind, self.spec, f"{self.folder / 'manifest.json'}: spec")

    def keeps(self, file: str) -> bool:
        """Whether a file of that name was written; artefacts of older versions lack files that were added later."""
        return file in self.manifest["files"]

    def rows_as(self, name: str, kind: type[F]) -> list[F]:
        """The rows of a table or of a JSON list, each as an instance of a class."""
        rows = self.table(name) if self.keeps(f"{name}.csv") else self.json(name)
        return [_checked(kind, row, f"{self.folder / name}: row {i}") for i, row in enumerate(rows, 1)]

    def values_as(self, name: str, kind: type[F]) -> dict[str, F]:
        """The values of a JSON object by key, each as an instance of a class."""
        return {
            key: _checked(kind, value, f"{self.folder / name}.json: {key}")
            for key, value in self.json(name).items()
        }

    def json_as(self, name: str, kind: type[F]) -> F:
        """A JSON file as an instance of a class; raises as `facts_as` does."""
        return _checked(kind, self.json(name), f"{self.folder / name}.json")

    @property
    def spec(self) -> Mapping[str, Any]:
        spec: Mapping[str, Any] = self.manifest["spec"]
        return spec

    def has(self, name: str) -> bool:
        """Whether an array of that name was written."""
        return name in self.manifest["arrays"]

    def array(self, name: str) -> NDArray[Any]:
        """An array, mapped into memory read-only."""
        array: NDArray[Any] = np.load(self._file(f"{name}.npy"), mmap_mode="r")
        return array

    def tensor(self, name: str, n: int | None = None) -> "Tensor":
        """An array, or its first `n` entries, in writable memory of its own, as torch wants it."""
        import torch

        return torch.from_numpy(np.array(self.array(name)[:n]))

    def tensors(self, name: str) -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(self._file(f"{name}.safetensors"))

    def table(self, name: str) -> list[dict[str, str]]:
        """A table's rows, as text."""
        with self._file(f"{name}.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def json(self, name: str) -> Any:
        return json.loads(self._file(f"{name}.json").read_text(encoding="utf-8"))

    def _file(self, name: str) -> Path:
        """The path of a file; ArtifactError if the manifest of another version of the program does not list it."""
        if not self.keeps(name):
            raise ArtifactError(
                f"{self.folder / name}: not listed in the manifest, which another version of this program wrote; "
                "delete the manifest and run snakemake again"
            )
        return self.folder / name
