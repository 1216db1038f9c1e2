"""Stage `points`: where the rows of a matrix are, and what is known there."""

from argparse import Namespace
from pathlib import Path

import numpy as np

from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.store import Draft, create
from pipeline.config.points import (
    AirportPoints,
    CityPoints,
    CubeMesh,
    FilePoints,
    GeoidPoints,
    PointsSpec,
    SphereMesh,
)
from pipeline.data import hold_out, load_points
from pipeline.data.meshes import cube_mesh, sphere_mesh
from pipeline.errors import ConfigError
from pipeline.runtime.provenance import cost, provenance
from pipeline.stages.parts.spec import errors_about, read_spec


def run(options: Namespace) -> None:
    """Write points with values and a held-out part, or a mesh."""
    spec = read_spec(options.spec, PointsSpec)
    points = spec.points
    origin = provenance(options.code)
    subject = f"matrices.{options.output.parent.name}.points"
    with (
        errors_about(subject),
        create(options.output, kind="points", spec=spec, provenance=origin) as draft,
    ):
        if isinstance(points, AirportPoints | CityPoints | GeoidPoints | FilePoints):
            facts = _places(draft, points)
        elif isinstance(points, SphereMesh | CubeMesh):
            facts = _mesh(draft, points)
        else:
            raise ConfigError(f"points {points.name} are made by the stage embeddings, from a network")
        draft.facts = facts
        origin["cost"] = cost()  # the work was done in this block
    print(f"points {points.name}: {facts.n} in {facts.dimension} dimensions")


def _places(draft: Draft, spec: AirportPoints | CityPoints | GeoidPoints | FilePoints) -> PointsFacts:
    """Points with a quantity: elevation, height of the geoid, logarithm of a population, a file's values."""
    if isinstance(spec, FilePoints):
        places = load_points(
            "file",
            path=Path(spec.path),
            coordinates=spec.coordinates,
            crs=spec.crs,
            value=spec.value,
            unit=spec.unit,
            n_points=spec.n,
            seed=spec.seed,
        )
        part, quantity, unit = spec.part_held_out, spec.value, spec.unit
        values = None if spec.value is None else places.values[spec.value]
    else:
        places = load_points(spec.name, n_points=spec.n, seed=spec.seed)
        part, quantity, unit = spec.held_out, "elevation", "m"
        if isinstance(spec, AirportPoints):
            values = places.values["elevation"]
        elif isinstance(spec, GeoidPoints):
            values, quantity = places.values["height"], "geoid height"
        else:
            # An unrecorded population is 0; one inhabitant keeps it finite.
            values = np.log10(np.maximum(places.values["population"], 1.0))
            unit, quantity = "log10 of people", "log10 population"
    n = len(places.points)
    n_held_out = round(part * n)
    if part and not 0 < n_held_out < n - 1:
        raise ConfigError(f"held_out: {part} of {n} places leaves nobody on one side; choose another part")
    kept, held_out = hold_out(n, n_held_out=n_held_out, seed=spec.seed)
    draft.save_array("points", places.points[kept], unit=places.units["points"])
    if values is not None:
        draft.save_array("values", values[kept], unit=unit)
    if n_held_out:
        draft.save_array("held_out_points", places.points[held_out], unit=places.units["points"])
        if values is not None:
            draft.save_array("held_out_values", values[held_out], unit=unit)
        for name in ("longitude", "latitude"):
            if name in places.values:
                draft.save_array(f"held_out_{name}", places.values[name][held_out], unit="degrees")
    return PointsFacts(
        name=spec.name,
        n=len(kept),
        dimension=places.points.shape[1],
        unit=unit if values is not None else None,
        quantity=quantity if values is not None else None,
        description=places.description,
    )


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
