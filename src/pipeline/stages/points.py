"""Stage `points`: the places of a matrix's rows, and the values known there."""

from argparse import Namespace
from pathlib import Path

import numpy as np

from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.store import Draft
from pipeline.config.points import CubeMesh, FilePoints, Generated, OwnMesh, PointsSpec, SphereMesh
from pipeline.data import Places, hold_out
from pipeline.data.meshes import cube_mesh, sphere_mesh
from pipeline.data.own_mesh import load_usable_mesh
from pipeline.data.splits import n_held_out_of
from pipeline.errors import ConfigError, errors_about
from pipeline.runtime.words import counted
from pipeline.stages.parts.own_points import own_places
from pipeline.stages.parts.spec import read_spec, written


def run(options: Namespace) -> None:
    """Write points with values and a held-out part, or a mesh."""
    spec = read_spec(options.spec, PointsSpec)
    points = spec.points
    with (
        errors_about(f"matrices.{options.output.parent.name}.points"),
        written(options, "points", spec) as draft,
    ):
        if isinstance(points, FilePoints):
            facts = own_places(draft, points)
        elif isinstance(points, Places):
            facts = write_places(draft, points)
        elif isinstance(points, Generated):
            facts = _generated(draft, points)
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


def _generated(draft: Draft, spec: Generated) -> PointsFacts:
    """Points without values."""
    places = spec.load()
    draft.save_array("points", places.points, unit=places.units["points"])
    return PointsFacts(name=spec.name, n=spec.n, dimension=spec.DIMENSION, description=places.description)


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
