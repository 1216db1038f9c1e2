"""One shard's file: named arrays in the safetensors format, written and checked whole, and read in parts.

The format is a length (8 bytes), a header in JSON with each array's type, shape and place, and the arrays one after the
other (https://huggingface.co/docs/safetensors). It has no complex numbers: they are stored as pairs of reals.
"""

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ArtifactError

DESCRIPTION = "h2shards.json"
Array = NDArray[Any]
_TYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_COMPLEX = "!"  # suffix of the names of complex arrays, which are kept as pairs of reals
_LENGTH = 8  # bytes of the header's length
_PIECE = 1 << 20  # bytes that a check reads at once


def shard_path(path: Path, number: int) -> Path:
    return path / f"shard-{number:05d}.safetensors"


def unfinished_path(path: Path, number: int) -> Path:
    """Return the path of a shard until all shards are written."""
    return path / f"shard-{number:05d}.unfinished"


def remove_shards(path: Path) -> None:
    """Remove the description and all shards of a folder, perhaps those of more processes than there are now."""
    (path / DESCRIPTION).unlink(missing_ok=True)
    for shard in path.glob("shard-*.safetensors"):
        shard.unlink()


def write_shard(file: Path, arrays: Mapping[str, Array]) -> int:
    """Write one shard, and return its checksum: the CRC-32 of its bytes."""
    header, end = {}, 0
    for name, values in arrays.items():
        is_complex = values.dtype.kind == "c"
        kind = np.dtype(values.real.dtype)
        shape = [*values.shape[:-1], 2 * values.shape[-1]] if is_complex else list(values.shape)
        header[name + _COMPLEX * is_complex] = {
            "dtype": _NAMES[kind],
            "shape": shape,
            "data_offsets": [end, end + values.nbytes],
        }
        end += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _LENGTH)
    checksum = 0
    with file.open("wb") as opened:
        contents: Iterable[bytes | memoryview] = map(_bytes_of, arrays.values())
        for content in (len(text).to_bytes(_LENGTH, "little"), text, *contents):
            opened.write(content)
            checksum = zlib.crc32(content, checksum)
    return checksum


def _bytes_of(values: Array) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def check_shard(path: Path, number: int, checksum: int) -> None:
    """Compare all bytes of a shard with its checksum.

    Raises:
        ArtifactError: If it is missing, or not as it was written.
    """
    file, found = shard_path(path, number), 0
    try:
        with file.open("rb") as opened:
            while piece := opened.read(_PIECE):
                found = zlib.crc32(piece, found)
    except FileNotFoundError as error:
        raise _missing(file) from error
    if found != checksum:
        raise ArtifactError(f"{file} is damaged, or of another matrix: {DESCRIPTION} has another checksum")


class Shard:
    """A shard whose file is open, to read arrays or ranges of their rows.

    Attributes:
        file: Its path.
    """

    def __init__(self, path: Path, number: int) -> None:
        """Open the file and read its header.

        Raises:
            ArtifactError: If the file is missing, or has no header.
        """
        self.file = shard_path(path, number)
        try:
            self._opened = self.file.open("rb")
        except FileNotFoundError as error:
            raise _missing(self.file) from error
        try:
            length = int.from_bytes(self._opened.read(_LENGTH), "little")
            header: dict[str, Any] = json.loads(self._opened.read(length))
            self._arrays: dict[str, tuple[np.dtype[Any], list[int], int]] = {
                name: (_TYPES[told["dtype"]], told["shape"], _LENGTH + length + told["data_offsets"][0])
                for name, told in header.items()
            }
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            self._opened.close()
            raise ArtifactError(f"{self.file} is damaged: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    def __contains__(self, name: str) -> bool:
        return name in self._arrays or name + _COMPLEX in self._arrays

    def __getitem__(self, name: str) -> Array:
        """Read an array."""
        return self.part(name, 0, self.length(name))

    def length(self, name: str) -> int:
        """Return the number of rows of an array."""
        if name in self._arrays:
            return int(self._arrays[name][1][0])
        return int(self._arrays[name + _COMPLEX][1][0]) // 2

    def part(self, name: str, start: int, stop: int) -> Array:
        """Read rows `start` to `stop` - 1 of an array.

        Raises:
            ArtifactError: If the file ends before these rows.
        """
        is_complex = name not in self._arrays
        kind, shape, first = self._arrays[name + _COMPLEX * is_complex]
        if is_complex:
            kind = np.dtype(np.result_type(kind, np.complex64))
        width = math.prod(shape[1:])
        values = np.empty((stop - start) * width, kind)
        self._opened.seek(first + start * width * kind.itemsize)
        if self._opened.readinto(values.view(np.uint8).data) != values.nbytes:
            raise ArtifactError(f"{self.file} is damaged: it ends within {name}")
        return values.reshape(stop - start, *shape[1:])


def _missing(file: Path) -> ArtifactError:
    return ArtifactError(f"{file} is missing: a shard of the matrix")
