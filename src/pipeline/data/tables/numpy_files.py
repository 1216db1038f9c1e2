"""Arrays that NumPy wrote: `.npy` files are mapped into memory, arrays of `.npz` files are read as streams."""

import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.tables.table import ROWS_AT_ONCE, OpenTable, Rows
from pipeline.errors import ConfigError

#: Errors of readers of archives: RuntimeError for encryption; its subclass NotImplementedError for unknown compression.
UNREADABLE = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, OSError)


#: Largest number of columns of an array; an array with more is probably transposed.
MOST_COLUMNS = 10_000


def open_npy(path: Path) -> OpenTable:
    """Open an array of shape (n,) or (n, columns); its columns are called 0, 1, and so on."""
    with path.open("rb") as file:
        magic = file.read(len(np.lib.format.MAGIC_PREFIX))
    if magic.startswith(b"PK\x03\x04"):
        raise ConfigError(f"{path}: holds several arrays; call it .npz")
    if magic != np.lib.format.MAGIC_PREFIX:
        raise _not_an_array(path, ValueError(f"it begins with {magic!r}" if magic else "it is empty"))
    try:
        with np.errstate(all="raise"):  # the product of a header's sizes may overflow
            array: Any = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, ArithmeticError) as error:
        raise _not_an_array(path, error) from None
    columns = _columns(path, "the array", "", array.dtype, array.shape)

    def read(names: Sequence[str]) -> Iterator[Rows]:
        chosen = [columns[name] for name in names]
        for first in range(0, len(array), ROWS_AT_ONCE):
            # The file is mapped anew, because pages that were read stay in memory as long as their mapping lasts.
            mapped: NDArray[Any] = np.load(path, mmap_mode="r").reshape(len(array), len(columns))
            yield mapped[first : first + ROWS_AT_ONCE, chosen].astype(np.float64)

    return OpenTable(path, tuple(columns), read, n=len(array))


def open_npz(path: Path) -> OpenTable:
    """Open a file of arrays; each is a column of its name, or several columns such as `x.0` and `x.1`."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            twice = next((name for name in members if members.count(name) > 1), None)
            if twice is not None:
                raise ConfigError(
                    f"{path}: array {twice.removesuffix('.npy')!r} occurs twice; write it again"
                )
            found = {name.removesuffix(".npy"): _header(archive, name) for name in members}
    except UNREADABLE as error:
        raise _not_an_array(path, error) from None
    places: dict[str, tuple[str, int]] = {}
    for name, (shape, _, dtype) in found.items():
        places |= {column: (name, i) for column, i in _columns(path, name, name, dtype, shape).items()}
    lengths = {name: shape[0] for name, (shape, *_) in found.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise ConfigError(f"{path}: its arrays differ in length ({told}); all need a value for every point")

    def read(names: Sequence[str]) -> Iterator[Rows]:
        wanted = list(dict.fromkeys(places[name][0] for name in names))
        with zipfile.ZipFile(path) as archive, ExitStack() as stack:
            streams = {name: _parts(stack, archive, f"{name}.npy") for name in wanted}
            try:
                for arrays in zip(*streams.values(), strict=True):
                    parts = dict(zip(streams, arrays, strict=True))
                    yield np.stack([parts[places[name][0]][:, places[name][1]] for name in names], axis=1)
            except UNREADABLE as error:
                raise _not_an_array(path, error) from None

    return OpenTable(path, tuple(places), read, n=next(iter(lengths.values()), None))


Header = tuple[tuple[int, ...], bool, np.dtype[Any]]


def _not_an_array(path: Path, error: Exception) -> ConfigError:
    what = "an array that numpy.save" if path.suffix.lower() == ".npy" else "a file that numpy.savez"
    text = " ".join(str(error).split()) or type(error).__name__
    return ConfigError(f"{path}: not {what} wrote ({text[:200]}); write it again")


def _read_header(file: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _header(archive: zipfile.ZipFile, name: str) -> Header:
    with archive.open(name) as file:
        return _read_header(file)


def _columns(
    path: Path, what: str, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> dict[str, int]:
    """Return the indices of an array's columns by name."""
    if len(shape) not in (1, 2) or min(shape) < 0 or dtype.kind not in "fiu":
        raise ConfigError(
            f"{path}: {what} holds {dtype} of shape {shape}; wanted real numbers of shape (n,) or (n, columns)"
        )
    if len(shape) == 1:
        return {name or "0": 0}
    if shape[1] > MOST_COLUMNS:
        raise ConfigError(
            f"{path}: {what} has {shape[1]:,} columns; wanted {MOST_COLUMNS:,} at most, so turn it if its rows are the "
            "points"
        )
    prefix = f"{name}." if name else ""
    return {f"{prefix}{i}": i for i in range(shape[1])}


def _parts(stack: ExitStack, archive: zipfile.ZipFile, name: str) -> Iterator[Rows]:
    """Yield the rows of an array in parts; an array in Fortran order has to be read as a whole."""
    file = stack.enter_context(archive.open(name))
    shape, fortran, dtype = _read_header(file)
    width = 1 if len(shape) == 1 else shape[1]
    if fortran and width > 1:
        n_bytes = shape[0] * width * dtype.itemsize
        whole = _numbers(file, n_bytes, dtype).reshape(width, shape[0]).T
        for first in range(0, shape[0], ROWS_AT_ONCE):
            yield whole[first : first + ROWS_AT_ONCE]
        return
    for first in range(0, shape[0], ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, shape[0] - first)
        yield _numbers(file, rows * width * dtype.itemsize, dtype).reshape(rows, width)


def _numbers(file: IO[bytes], n_bytes: int, dtype: np.dtype[Any]) -> Rows:
    found = file.read(n_bytes)
    if len(found) < n_bytes:
        raise EOFError("it ends too early")
    return np.frombuffer(found, dtype).astype(np.float64)
