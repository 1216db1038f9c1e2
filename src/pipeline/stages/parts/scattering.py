"""Task scattering: the wave that a mesh scatters, its far field, and how well power is kept."""

import math
import time
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.artifacts.results.operator import OperatorFacts
from pipeline.artifacts.results.solution import ScatteringResult, SolutionFacts, SolveCost
from pipeline.artifacts.store import Artifact
from pipeline.config.matrices import Solve, SolveSpec, Wave
from pipeline.hmatrix import kernels
from pipeline.hmatrix.boundary_elements import (
    LayerOperators,
    PlaneWave,
    Scattering,
    TriangleMesh,
    solve_scattering,
)
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import together
from pipeline.runtime.words import counted
from pipeline.stages.parts.divided import created

#: Degrees between the directions of the far field that are kept.
STEP = 1
BOTH_LAYERS = "the solve holds the double layer too, which is not in the storage that is told here"
_AT_A_TIME = 4_000_000  # waves between directions and quadrature points that are evaluated together
_POINTS = 7  # quadrature points of a triangle in the far field
_DEGREES = 10  # of spherical harmonics beyond those that a body of this size has, for digits


@dataclass(frozen=True)
class Scattered:
    """What a solve gives.

    Attributes:
        result: Numbers for the report.
        cost: What the solve took.
        density: The unknowns: one for each triangle at a soft surface, for each vertex at a hard one.
        angles: Angles from the direction of the incident wave in degrees, shape (a,).
        far_field: f at these angles in two planes through that direction, shape (2, a).
        direction: Unit vector along which the incident wave goes, shape (3,).
    """

    result: ScatteringResult
    cost: SolveCost
    density: NDArray[Any]
    angles: NDArray[np.float64]
    far_field: NDArray[Any]
    direction: NDArray[np.float64]


def mesh_of(points: Artifact) -> TriangleMesh:
    """Return the whole mesh that the stage `points` has written."""
    vertices, triangles = (np.array(points.array(name)) for name in ("vertices", "triangles"))
    return TriangleMesh(torch.from_numpy(vertices), torch.from_numpy(triangles))


def scatter(
    options: Namespace, spec: SolveSpec, points: Artifact, compressed: Artifact, communicator: Communicator
) -> None:
    """Scatter a wave in process 0, and save what it found; collective.

    Layers with normal derivatives are not divided among processes.
    """
    facts, found = compressed.facts_as(OperatorFacts), None
    with together(communicator):
        if communicator.rank == 0:
            kernel = kernels.from_dict(facts.kernel_parameters)
            assert isinstance(kernel, kernels.Helmholtz)
            found = answer(
                mesh_of(points),
                complex(kernel.wavenumber).real,
                spec.wave or Wave(),
                facts.compress.tolerance,
                spec.solve,
            )
    with created(options, spec, communicator, kind="solution") as draft:
        if draft is not None and found is not None:
            draft.save_array("solution", found.density)
            draft.save_array("angle", found.angles, unit="degrees")
            draft.save_array("far_field", found.far_field)
            draft.save_array("direction", found.direction)
            draft.facts = SolutionFacts(result=found.result, solve=found.cost)
    if found is not None:
        name, result = options.output.parent.name, found.result
        print(
            f"solve {name}: {counted(found.cost.iterations, 'iteration')}, residual "
            f"{found.cost.relative_residual:.1e} of the compressed matrix; "
            f"scattering cross-section {result.cross_section:.6g}, power kept to "
            f"{result.power_imbalance:.1e}"
        )


def answer(mesh: TriangleMesh, wavenumber: float, wave: Wave, tolerance: float, options: Solve) -> Scattered:
    """Scatter a plane wave at a mesh, in this process alone.

    Args:
        mesh: Closed, or a screen.
        wavenumber: k, in the inverse unit of the mesh.
        wave: Where the plane wave goes, and what the surface is.
        tolerance: Tolerance of the compression.
        options: How far the system is solved.

    Raises:
        ConfigError: If the mesh is not usable, or too coarse for the wave.
        ConvergenceError: If the iteration does not converge.
    """
    incident = PlaneWave(wavenumber, wave.direction)
    screen = not mesh.is_closed
    layers = LayerOperators(mesh, kernels.Helmholtz(wavenumber), tolerance=tolerance, screen=screen)
    start = time.perf_counter()
    layers.single_layer()
    if not screen:
        layers.double_layer()
    assembled = time.perf_counter()
    found = solve_scattering(
        mesh,
        incident,
        wavenumber,
        condition=wave.condition,
        tolerance=options.tolerance,
        operators=layers,
        max_iterations=options.max_iterations,
    )
    solved = time.perf_counter()
    info = found.scattered.info
    angles = np.arange(0.0, 360.0 + STEP / 2, STEP)
    far_field = np.stack(
        [_far_field(found, directions) for directions in _planes(incident.direction, angles)]
    )
    forward, backward = _far_field(found, np.array([incident.direction, [-x for x in incident.direction]]))
    scattered, lost = _cross_section(found), 4 * math.pi / wavenumber * forward.imag
    return Scattered(
        result=ScatteringResult(
            wavenumber=wavenumber,
            condition=wave.condition,
            triangles_per_wavelength=2 * math.pi / (wavenumber * float(mesh.diameters.max())),
            forward=abs(forward),
            backward=abs(backward),
            cross_section=scattered,
            power_imbalance=abs(scattered - lost) / scattered,
        ),
        cost=SolveCost(
            assemble_seconds=assembled - start,
            factorize_seconds=0.0,
            factor_bytes=0,
            factor_tolerance=1.0,
            factor_kind="none",
            solve_seconds=solved - assembled,
            iterations=info.iterations,
            relative_residual=info.residuals[-1],
            exact_residual=None,
            logdet=None,
            processes=1,
            notes=[*found.notes, *info.notes, *([] if screen else [BOTH_LAYERS])],
            tolerance=options.tolerance,
        ),
        density=found.density,
        angles=angles,
        far_field=far_field,
        direction=np.array(incident.direction),
    )


def _planes(
    direction: tuple[float, float, float], angles: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return directions at angles from a unit vector, in two planes through it that are perpendicular.

    The first plane holds the coordinate axis that is farthest from the vector.
    """
    d = np.array(direction)
    axis = np.eye(3)[np.abs(d).argmin()]
    across = axis - (axis @ d) * d
    across /= np.linalg.norm(across)
    radians = np.radians(angles)[:, None]
    return (
        np.cos(radians) * d + np.sin(radians) * across,
        np.cos(radians) * d + np.sin(radians) * np.cross(d, across),
    )


def _far_field(found: Scattering, directions: NDArray[np.float64]) -> NDArray[Any]:
    """Return f in these directions, a part of them at a time."""
    each = max(1, _AT_A_TIME // (_POINTS * len(found.scattered.mesh)))
    parts = [found.far_field(directions[first : first + each]) for first in range(0, len(directions), each)]
    return np.concatenate(parts)


def _cross_section(found: Scattering) -> float:
    """Return the integral of |f|² over all directions, by a product rule on the sphere that is exact for its degree.

    f has spherical harmonics up to a degree of about k a in a ball of radius a around the mesh, and a few more that
    decay faster than exponentially; |f|² has twice as many, and does not hang on where the ball is.
    """
    mesh = found.scattered.mesh
    vertices = mesh.vertices.double().numpy()
    center = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    size = abs(found.scattered.wavenumber) * float(np.linalg.norm(vertices - center, axis=1).max())
    degree = math.ceil(size + 2 * size ** (1 / 3)) + _DEGREES
    heights, weights = np.polynomial.legendre.leggauss(degree + 1)
    around = np.arange(2 * degree + 1) * 2 * np.pi / (2 * degree + 1)
    z, phi = (part.ravel() for part in np.meshgrid(heights, around, indexing="ij"))
    radius = np.sqrt(1 - z**2)
    directions = np.stack([radius * np.cos(phi), radius * np.sin(phi), z], axis=1)
    squares = np.abs(_far_field(found, directions)) ** 2
    return float(squares @ np.repeat(weights, len(around)) * 2 * np.pi / len(around))
