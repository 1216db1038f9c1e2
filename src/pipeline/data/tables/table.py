"""A file of numbers in columns, of any format, whose rows are read in parts."""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.options import LARGEST

Rows = NDArray[np.float64]

#: Rows that are in memory at once: some megabytes with ten columns.
ROWS_AT_ONCE = 65536
FINITE = "a finite number"


@dataclass(frozen=True)
class OpenTable:
    """An open file.

    Attributes:
        path: The file.
        columns: Names of all columns.
        read: Returns parts of the rows, each of shape (rows, names), for names of columns. Missing values are NaN.
        units: Units by column, if the file gives them.
        axes: Returns the names and sizes of the dimensions of a grid for names of columns, the last one fastest; empty
            for a list of places.
        crs: The code of the coordinates' system, such as "EPSG:4326", if the file gives it.
        n: Number of rows of a list of places, if the head of the file gives it.
    """

    path: Path
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Iterator[Rows]]
    units: Mapping[str, str] = field(default_factory=dict)
    axes: Callable[[Sequence[str]], Mapping[str, int]] = field(default=lambda names: {})
    crs: str = ""
    n: int | None = None

    def n_rows(self, names: Sequence[str]) -> int | None:
        """Return the number of rows of such columns; None if the whole file would have to be read."""
        return math.prod(axes.values()) if (axes := self.axes(names)) else self.n

    def chosen(self, names: Sequence[str] | None) -> list[str]:
        """Return the names of columns; all columns by default.

        Raises:
            ConfigError: If there is no column of a name; the message gives the most similar name.
        """
        for name in names or ():
            if name not in self.columns:
                near = difflib.get_close_matches(name, self.columns, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                there = ", ".join(self.columns) or "none that holds numbers"
                raise ConfigError(f"{self.path}: has no column {name!r}; {hint}columns: {there}")
        return list(self.columns if names is None else names)

    def require_names(self) -> None:
        """Check that a column without a name counts the rows from 0 or 1, as some programs write one.

        Raises:
            ConfigError: If it holds anything else, since it may be a coordinate without its name.
        """
        if "" not in self.columns:
            return
        try:
            (counted,) = next(self.parts([""])).T
        except WrongValueError:
            counted = np.array([np.nan])
        if counted[0] not in (0.0, 1.0) or np.any(np.diff(counted) != 1.0):
            raise ConfigError(
                f"{self.path}: column {self.columns.index('') + 1} has no name and does not count the rows; name it in "
                "the first line, or remove it"
            )

    def parts(self, names: Sequence[str] | None = None) -> Iterator[Rows]:
        """Read the rows in parts, and check that every value and its square are finite.

        Raises:
            ConfigError: If there are no rows, or a value is no number or too large; the message names row and column.
        """
        chosen = self.chosen(names)
        first = 1
        for part in self.read(chosen) if chosen else ():
            bad = np.argwhere(~(np.abs(part) <= LARGEST))
            if len(bad):
                row, column = bad[0]
                value, number = part[row, column], first + int(row)
                found = "no value" if np.isnan(value) else f"{value:g}"
                wanted = no_larger() if np.isfinite(value) else FINITE
                place = self._place(number, chosen)
                raise wrong_value(self.path, number, chosen[column], found, place, wanted)
            first += len(part)
            if len(part):
                yield part
        if first == 1:
            raise ConfigError(f"{self.path}: holds no rows; it needs at least one")

    def _place(self, row: int, names: Sequence[str]) -> str:
        """Return the place of a row in a grid, such as " (lat 3, lon 17)"; empty for a list of places."""
        axes = self.axes(names)
        if len(axes) < 2:
            return ""
        where = np.unravel_index(row - 1, tuple(axes.values()))
        return f" ({', '.join(f'{name} {int(i) + 1}' for name, i in zip(axes, where, strict=True))})"


class WrongValueError(ConfigError):
    """A value that is not a finite number, or too large; `row` counts from 1."""

    def __init__(self, text: str, row: int = 0) -> None:
        super().__init__(text)
        self.row = row


def no_larger() -> str:
    """Return the description of a valid number, for errors about finite numbers that are too large."""
    return f"a number of size {LARGEST:g} at most"


def wrong_value(
    path: Path, row: int, column: str, found: str, place: str = "", wanted: str = FINITE
) -> WrongValueError:
    """Return the error about one value; rows are counted from 1, without the header."""
    shown = found if found == "no value" else repr(found[:40])
    return WrongValueError(
        f"{path}: row {row}{place}, column {column}: wanted {wanted}, found {shown}; "
        "correct the row or leave it out",
        row,
    )


def unreadable(path: Path, error: Exception, advice: str) -> ConfigError:
    """Return the error about a file that its library refuses, in one line."""
    first = error.args[0] if error.args else ""
    told = first.decode(errors="replace") if isinstance(first, bytes) else str(error)
    text = (
        " ".join("".join(mark if mark.isprintable() else " " for mark in told).split())
        or type(error).__name__
    )
    return ConfigError(f"{path}: cannot be read ({text[:200]}); {advice}")
