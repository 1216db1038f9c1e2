"""Points of a file, written as an artefact, one part of the rows at a time.

Rows that were read and checked go to files without a name, which vanish when the process ends; then the held-out rows
are separated from the others. Only one part of the rows, and a number for each row, are in memory.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.store import Draft
from pipeline.config.points import FilePoints
from pipeline.data.own_points import OwnPoints, PointsPart

ROWS_AT_ONCE = 65536


def own_places(draft: Draft, spec: FilePoints) -> PointsFacts:
    """Write the points of a file, with their values, divided into known and held-out ones."""
    own = spec.open()
    units = [own.units[name] for name in own.values]
    unit = units[0] if len(set(units)) == 1 else ", ".join(units)
    with ExitStack() as stack:
        n, scratch = _to_scratch(own, stack, draft.folder)
        known, held_out = spec.divide(n)
        d = scratch["points"].width
        for prefix, rows in (("", known), ("held_out_", held_out)):
            if prefix and not len(rows):
                continue
            for name, file in scratch.items():
                if name == "points":
                    draft.save_array_in_parts(
                        f"{prefix}points", file.rows(rows), shape=(len(rows), d), unit=own.coordinate_unit
                    )
                elif name == "values":
                    shape = (len(rows),) if file.width == 1 else (len(rows), file.width)
                    draft.save_array_in_parts(f"{prefix}values", file.rows(rows), shape=shape, unit=unit)
                elif prefix:
                    for column, what in enumerate(("longitude", "latitude")):
                        parts = (part[:, column] for part in file.rows(rows))
                        draft.save_array_in_parts(
                            f"held_out_{what}", parts, shape=(len(rows),), unit="degrees"
                        )
    return PointsFacts(
        name=spec.name,
        n=len(known),
        dimension=d,
        unit=units[0] if units else None,
        quantity=own.values[0] if own.values else None,
        quantities=own.values,
        units=tuple(units),
        coordinates=own.coordinates,
        crs=own.crs,
        description=f"the points of {own.path}",
    )


@dataclass(frozen=True)
class _Scratch:
    """Rows of numbers in a file without a name."""

    file: IO[bytes]
    width: int

    def rows(self, chosen: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
        """Yield the chosen rows, in increasing order, from one part of the file after the other."""
        self.file.seek(0)
        first = 0
        while len(part := np.fromfile(self.file, np.float64, ROWS_AT_ONCE * self.width)):
            rows = part.reshape(-1, self.width)
            inside = slice(*np.searchsorted(chosen, (first, first + len(rows))))
            yield rows[chosen[inside] - first]
            first += len(rows)


def _to_scratch(own: OwnPoints, stack: ExitStack, folder: Path) -> tuple[int, dict[str, _Scratch]]:
    """Write the contents of the rows, a file for each kind; return how many rows there are."""
    n, scratch = 0, dict[str, _Scratch]()
    for part in own.parts():
        for name, rows in _kinds(part).items():
            if name not in scratch:
                file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the stack closes it
                scratch[name] = _Scratch(stack.enter_context(file), rows.shape[1])
            scratch[name].file.write(np.ascontiguousarray(rows).data)
        n += len(part.points)
    return n, scratch


def _kinds(part: PointsPart) -> dict[str, NDArray[np.float64]]:
    found = {"points": part.points}
    if part.values.shape[1]:
        found["values"] = part.values
    if part.degrees is not None:
        found["degrees"] = part.degrees
    return found
