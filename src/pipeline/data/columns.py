"""Columns of numbers from files: CSV with a header, `.npy` and `.npz`."""

import csv
import difflib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

Columns = dict[str, NDArray[np.float64]]

ROWS_AT_ONCE = 65536


def read_columns(path: Path, names: Sequence[str] | None = None) -> Columns:
    """Read columns of numbers by name.

    A CSV file names its columns in its first line and is read a part at a time. A `.npy` file holds an array of shape
    (n, columns), whose columns are called 0, 1, and so on. Every array of an `.npz` file is a column under its own
    name; one of two dimensions is several, such as `points.0` and `points.1`.

    Args:
        path: The file; its ending tells what it is.
        names: The columns to read; all by default.

    Raises:
        ConfigError: With the row and the column of the first value that is no finite number; or if there is no such
            file or column, or the file cannot be read.
    """
    readers = {".csv": _from_csv, ".npy": _from_npy, ".npz": _from_npz}
    if path.suffix.lower() not in readers:
        raise ConfigError(
            f"{path}: wanted a file that ends in {', '.join(readers)}; write the points as one of these"
        )
    try:
        columns = readers[path.suffix.lower()](path, names)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file; save it as CSV in UTF-8") from None
    except (OSError, csv.Error, EOFError) as error:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    if not columns or not len(next(iter(columns.values()))):
        raise ConfigError(f"{path}: holds no rows; it needs at least one")
    for name, values in columns.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise _wrong(path, int(bad[0]) + 1, name, str(values[bad[0]]))
    return columns


def _wrong(path: Path, row: int, column: str, found: str) -> ConfigError:
    return ConfigError(
        f"{path}: row {row}, column {column}: wanted a finite number, found {found[:40]!r}; mend the row or leave it "
        "out"
    )


def _chosen(path: Path, there: Sequence[str], names: Iterable[str] | None) -> list[str]:
    """The names of the columns to read, which have to be there."""
    for name in names or ():
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"{path}: has no column {name!r}; {hint}columns: {', '.join(there)}")
    return list(there if names is None else names)


def _from_csv(path: Path, names: Sequence[str] | None) -> Columns:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"{path}: column {twice!r} is there twice; rename one of them")
        chosen = _chosen(path, header, names)
        places = [header.index(name) for name in chosen]
        parts = list(_parts(path, rows, header, places))
    return dict(zip(chosen, np.concatenate(parts).T.copy(), strict=True)) if parts else {}


def _parts(
    path: Path, rows: Iterator[list[str]], header: Sequence[str], places: Sequence[int]
) -> Iterator[NDArray[np.float64]]:
    """Numbers of the chosen columns, some rows at a time; rows are counted from the first below the header."""
    first = 1
    while part := list(islice(rows, ROWS_AT_ONCE)):
        for number, row in enumerate(part, first):
            if len(row) != len(header):
                raise ConfigError(
                    f"{path}: row {number}: wanted {len(header)} values, found {len(row)}; mend the row or leave it out"
                )
        try:
            yield np.array([[row[place] for place in places] for row in part], dtype=np.float64)
        except ValueError:
            yield np.array(
                [_numbers(path, number, row, header, places) for number, row in enumerate(part, first)]
            )
        first += len(part)


def _numbers(
    path: Path, number: int, row: Sequence[str], header: Sequence[str], places: Sequence[int]
) -> list[float]:
    """The numbers of one row, for a part that holds something else."""
    values = []
    for place in places:
        try:
            values.append(float(row[place]))
        except ValueError:
            raise _wrong(path, number, header[place], row[place]) from None
    return values


def _from_npy(path: Path, names: Sequence[str] | None) -> Columns:
    return _picked(path, _columns_of(path, "", _loaded(path)), names)


def _from_npz(path: Path, names: Sequence[str] | None) -> Columns:
    arrays = _loaded(path)
    columns: dict[str, NDArray[Any]] = {}
    for name in arrays.files:
        try:
            columns |= _columns_of(path, name, arrays[name])
        except ValueError as error:
            raise ConfigError(
                f"{path}: {name} cannot be read ({error}); wanted an array of real numbers"
            ) from None
    if len({len(values) for values in columns.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise ConfigError(
            f"{path}: its arrays differ in length ({lengths}); all need a value for every point"
        )
    return _picked(path, columns, names)


def _loaded(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r")
    except ValueError as error:
        raise ConfigError(f"{path}: not an array that numpy.save wrote ({error})") from None


def _columns_of(path: Path, name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The columns of an array by name, not yet read."""
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
        raise ConfigError(
            f"{path}: {name or 'the array'} holds {array.dtype} of shape {array.shape}; wanted real numbers of shape "
            "(n,) or (n, columns)"
        )
    if array.ndim == 1:
        return {name or "0": array}
    prefix = f"{name}." if name else ""
    return {f"{prefix}{i}": array[:, i] for i in range(array.shape[1])}


def _picked(path: Path, columns: dict[str, NDArray[Any]], names: Sequence[str] | None) -> Columns:
    chosen = _chosen(path, list(columns), names)
    return {name: np.array(columns[name], dtype=np.float64) for name in chosen}
