"""Task `scattering`: the wave that a mesh scatters, its far field, and how well power is conserved."""

import math
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.artifacts.results.solution import ScatteringResult, SolveCost
from pipeline.artifacts.store import Artifact
from pipeline.config.matrices import Solve, Wave
from pipeline.hmatrix import kernels
from pipeline.hmatrix.boundary_elements import PlaneWave, TriangleMesh
from pipeline.hmatrix.distributed import (
    DistributedLayerOperators,
    DistributedScattering,
    solve_distributed_scattering,
)
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.words import counted
from pipeline.stages.parts.solved import Answer, Arrays

#: Degrees between the stored directions of the far field.
STEP = 1
BOTH_LAYERS = "the solve holds the double layer too, which is not in the storage that is told here"
_AT_A_TIME = 500_000  # pairs of a direction and a quadrature point that are evaluated together
_POINTS = 7  # quadrature points of a triangle in the far field
_DEGREES = 10  # of spherical harmonics, beyond the degree of a body of this size, for more digits


def mesh_of(points: Artifact) -> TriangleMesh:
    """Return the whole mesh that the stage `points` has written."""
    vertices, triangles = (np.array(points.array(name)) for name in ("vertices", "triangles"))
    return TriangleMesh(torch.from_numpy(vertices), torch.from_numpy(triangles))


def answer(
    vertices: NDArray[Any],
    triangles: NDArray[Any],
    kernel: kernels.Helmholtz,
    wave: Wave,
    tolerance: float,
    options: Solve,
    communicator: Communicator,
) -> Answer:
    """Scatter a plane wave at a mesh; a mesh with open edges is a screen; collective.

    Own rows of the solution are this process's unknowns: one for each triangle of a soft surface, or for each vertex of
    a hard one. The far field is taken at angles from the direction of the incident wave, in two planes through it.
    A mesh that is not usable, or too coarse for the wave, is a ConfigError, and no convergence a ConvergenceError.
    """
    wavenumber = complex(kernel.wavenumber).real
    incident = PlaneWave(wavenumber, wave.direction)
    start = time.perf_counter()
    layers = DistributedLayerOperators.of(vertices, triangles, kernel, communicator, tolerance=tolerance)
    if not layers.screen:
        soft = wave.condition == "soft"
        double = layers.adjoint_double_layer() if soft else layers.double_layer("P1", "P1")
        double.scaling()  # this compresses it
    assembled = time.perf_counter()
    found = solve_distributed_scattering(
        layers,
        incident,
        condition=wave.condition,
        tolerance=options.tolerance,
        max_iterations=options.max_iterations,
    )
    solved = time.perf_counter()
    angles = np.arange(0.0, 360.0 + STEP / 2, STEP)
    far_field = np.stack(
        [_far_field(found, layers, directions) for directions in _planes(incident.direction, angles)]
    )
    to_and_fro = np.array([incident.direction, [-x for x in incident.direction]])
    forward, backward = _far_field(found, layers, to_and_fro)
    scattered, lost = _cross_section(found, layers), 4 * math.pi / wavenumber * forward.imag
    result = ScatteringResult(
        wavenumber=wavenumber,
        condition=wave.condition,
        triangles_per_wavelength=2 * math.pi / (wavenumber * layers.surface.longest),
        forward=abs(forward),
        backward=abs(backward),
        cross_section=scattered,
        power_imbalance=abs(scattered - lost) / scattered,
    )
    cost = SolveCost(
        assemble_seconds=assembled - start,
        factorize_seconds=0.0,
        factor_bytes=0,
        factor_tolerance=1.0,
        factor_kind="none",
        solve_seconds=solved - assembled,
        iterations=found.info.iterations,
        relative_residual=found.info.residuals[-1],
        exact_residual=None,
        logdet=None,
        processes=communicator.size,
        notes=[*found.notes, *found.info.notes, *([] if layers.screen else [BOTH_LAYERS])],
        tolerance=options.tolerance,
    )
    line = (
        f"{counted(cost.iterations, 'iteration')} on {counted(cost.processes, 'process', 'processes')}, residual "
        f"{cost.relative_residual:.1e} of the compressed matrix; scattering cross-section "
        f"{result.cross_section:.6g}, power kept to {result.power_imbalance:.1e}"
    )
    arrays: Arrays = {
        "angle": (angles, "degrees"),
        "far_field": (far_field, "1"),
        "direction": (np.array(incident.direction), "1"),
    }
    return Answer(result, (line,), rows={"solution": found.density}, arrays=arrays, cost=cost)


def _planes(
    direction: tuple[float, float, float], angles: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return directions at angles from a unit vector, in two perpendicular planes through it.

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


def _far_field(
    found: DistributedScattering, layers: DistributedLayerOperators, directions: NDArray[np.float64]
) -> NDArray[Any]:
    """Return f in these directions, a part of them at a time; collective."""
    most = -(-layers.surface.n_triangles // found.communicator.size)
    each = max(1, _AT_A_TIME // (_POINTS * most))
    parts = [found.far_field(directions[first : first + each]) for first in range(0, len(directions), each)]
    return np.concatenate(parts)


def _cross_section(found: DistributedScattering, layers: DistributedLayerOperators) -> float:
    """Return the integral of |f|² over all directions, by a product rule on the sphere that is exact for its degree.

    For a mesh in a ball of radius a, f has spherical harmonics up to a degree of about k a, and a few more that decay
    faster than exponentially. |f|² has twice as many, and does not depend on where the ball is. Collective.
    """
    size = abs(layers.wavenumber) * layers.surface.radius
    degree = math.ceil(size + 2 * size ** (1 / 3)) + _DEGREES
    heights, weights = np.polynomial.legendre.leggauss(degree + 1)
    around = np.arange(2 * degree + 1) * 2 * np.pi / (2 * degree + 1)
    z, phi = (part.ravel() for part in np.meshgrid(heights, around, indexing="ij"))
    radius = np.sqrt(1 - z**2)
    directions = np.stack([radius * np.cos(phi), radius * np.sin(phi), z], axis=1)
    squares = np.abs(_far_field(found, layers, directions)) ** 2
    return float(squares @ np.repeat(weights, len(around)) * 2 * np.pi / len(around))
