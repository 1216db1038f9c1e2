"""Stage `points`: the places of a matrix's rows, and the values known there.

A file is read one part of the rows at a time. Rows that were read and checked go to files without a name, which vanish
when the process ends; then the held-out rows are separated from the others. Only one part of the rows, and a number
for each row, are in memory.
"""

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.store import Draft
from pipeline.config.points import CubeMesh, FilePoints, Generated, OwnMesh, PointsSpec, SphereMesh
from pipeline.data import Places, hold_out
from pipeline.data.meshes import cube_mesh, sphere_mesh
from pipeline.data.own_mesh import load_usable_mesh
from pipeline.data.own_points import OwnPoints
from pipeline.data.splits import n_held_out_of
from pipeline.errors import ConfigError, errors_about
from pipeline.runtime.words import counted
from pipeline.stages.parts.spec import read_spec, written

ROWS_AT_ONCE = 65536


def run(options: Namespace) -> None:
    """Write points with values and a held-out part, or a mesh."""
    spec = read_spec(options.spec, PointsSpec)
    points = spec.points
    with (
        errors_about(f"matrices.{options.output.parent.name}.points"),
        written(options, "points", spec) as draft,
    ):
        if isinstance(points, FilePoints):
            facts = _own_places(draft, points)
        elif isinstance(points, Places):
            facts = write_places(draft, points)
        elif isinstance(points, Generated):
            places = points.load()
            draft.save_array("points", places.points, unit=places.units["points"])
            facts = PointsFacts(
                name=points.name, n=points.n, dimension=points.DIMENSION, description=places.description
            )
        elif isinstance(points, OwnMesh):
            facts = _own_mesh(draft, points)
        elif isinstance(points, SphereMesh | CubeMesh):
            facts = _mesh(draft, points)
        else:
            raise ConfigError(f"points {points.name} are made by the stage embeddings, from a network")
        draft.facts = facts
    where = (
        "by longitude and latitude"
        if facts.crs == "lonlat"
        else f"in {counted(facts.dimension, 'dimension')}"
    )
    print(f"points {points.name}: {facts.n:,} {where}")


def write_places(draft: Draft, spec: Places) -> PointsFacts:
    """Write places with their quantity, divided into known and held-out ones."""
    places = spec.load()
    values, unit = places.values[spec.QUANTITY], places.units[spec.QUANTITY]
    n = len(places.points)
    known, held_out = hold_out(n, n_held_out=n_held_out_of(n, spec.held_out), seed=spec.seed)
    for prefix, rows in (("", known), ("held_out_", held_out)):
        draft.save_array(f"{prefix}points", places.points[rows], unit=places.units["points"])
        draft.save_array(f"{prefix}values", values[rows], unit=unit)
    on_the_globe = tuple(name for name in ("longitude", "latitude") if name in places.values)
    for name in on_the_globe:
        draft.save_array(f"held_out_{name}", places.values[name][held_out], unit="degrees")
    dimension = places.points.shape[1]
    return PointsFacts(
        name=spec.name,
        n=len(known),
        dimension=dimension,
        unit=unit,
        quantity=spec.QUANTITY,
        coordinates=on_the_globe or tuple("xyz"[:dimension] if dimension <= 3 else ()),
        crs="lonlat" if on_the_globe else "plane",
        description=places.description,
    )


def _own_mesh(draft: Draft, spec: OwnMesh) -> PointsFacts:
    """A mesh of a file, checked before anything is computed on it."""
    path = Path(spec.path)
    mesh, diagnosis = load_usable_mesh(path)
    told = str(diagnosis) if diagnosis.is_closed else str(diagnosis).replace("error: ", "taken as a screen: ")
    print(f"{path}: {told}")
    draft.save_array("vertices", np.asarray(mesh.vertices))
    draft.save_array("triangles", np.asarray(mesh.triangles))
    return PointsFacts(name=spec.name, n=len(mesh), dimension=3, description=f"the mesh of {path}")


def _mesh(draft: Draft, spec: SphereMesh | CubeMesh) -> PointsFacts:
    if isinstance(spec, SphereMesh):
        vertices, triangles = sphere_mesh(spec.refinements)
        reference, what = 1.0, "the unit sphere, whose capacitance is 1 exactly"
    else:
        vertices, triangles = cube_mesh(spec.divisions, grading=spec.grading)
        # Hwang and Won, "Electrical capacitance of a unit cube", Journal of Applied Physics 2010.
        reference, what = 0.66067817, "the unit cube"
    draft.save_array("vertices", vertices)
    draft.save_array("triangles", triangles)
    return PointsFacts(name=spec.name, n=len(triangles), dimension=3, reference=reference, description=what)


def _own_places(draft: Draft, spec: FilePoints) -> PointsFacts:
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
        for name, rows in {"points": part.points, "values": part.values, "degrees": part.degrees}.items():
            if rows is None or not rows.shape[1]:
                continue
            if name not in scratch:
                file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the stack closes it
                scratch[name] = _Scratch(stack.enter_context(file), rows.shape[1])
            scratch[name].file.write(np.ascontiguousarray(rows).data)
        n += len(part.points)
    return n, scratch
