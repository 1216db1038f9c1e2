"""Waves scattered by bodies and screens: sound-soft (the field vanishes) or sound-hard (its normal derivative does)."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import ConfigError
from pipeline.hmatrix.boundary_elements.coupling import coupling
from pipeline.hmatrix.boundary_elements.operators import LayerOperators
from pipeline.hmatrix.boundary_elements.problems import (
    ITERATIONS,
    BoundarySolution,
    Region,
    notes_on,
    solve_system,
)
from pipeline.hmatrix.boundary_elements.quadrature import gauss_rule
from pipeline.hmatrix.boundary_elements.spaces import Space
from pipeline.hmatrix.kernels import Helmholtz
from pipeline.meshes.triangles import TriangleMesh
from pipeline.runtime.communicator import Communicator

Condition = Literal["soft", "hard"]


class Incident(Protocol):
    """An incident wave: a solution of Helmholtz's equation around the surface."""

    def values(self, points: NDArray[np.float64]) -> NDArray[Any]:
        """Return its values at points (n, 3)."""

    def gradients(self, points: NDArray[np.float64]) -> NDArray[Any]:
        """Return its gradients, shape (n, 3)."""


@dataclass(frozen=True)
class PlaneWave:
    """exp(i k d x).

    Attributes:
        wavenumber: k.
        direction: d, the direction of propagation, of any length but 0.
    """

    wavenumber: float
    direction: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        length = math.hypot(*self.direction)
        if not (math.isfinite(length) and length > 0):
            raise ConfigError(f"direction must be three numbers that are not all 0, not {self.direction}")
        x, y, z = (float(part) / length for part in self.direction)
        object.__setattr__(self, "direction", (x, y, z))

    def values(self, points: NDArray[np.float64]) -> NDArray[Any]:
        """Return its values at points (n, 3)."""
        return np.asarray(np.exp(1j * self.wavenumber * (points @ np.array(self.direction))))

    def gradients(self, points: NDArray[np.float64]) -> NDArray[Any]:
        """Return its gradients, shape (n, 3)."""
        return np.asarray(1j * self.wavenumber * self.values(points)[:, None] * np.array(self.direction))


@dataclass(frozen=True)
class PointSource:
    """exp(i k r)/(4 pi r) about a place.

    Attributes:
        wavenumber: k.
        place: Place of the source, where r = 0.
    """

    wavenumber: float
    place: tuple[float, float, float]

    def values(self, points: NDArray[np.float64]) -> NDArray[Any]:
        """Return its values at points (n, 3)."""
        r = np.linalg.norm(points - np.array(self.place), axis=1)
        return np.asarray(np.exp(1j * self.wavenumber * r) / (4 * np.pi * r))

    def gradients(self, points: NDArray[np.float64]) -> NDArray[Any]:
        """Return its gradients, shape (n, 3)."""
        away = points - np.array(self.place)
        r = np.linalg.norm(away, axis=1)
        slope = self.values(points) * (1j * self.wavenumber - 1 / r) / r
        return np.asarray(slope[:, None] * away)


@dataclass(frozen=True, eq=False)
class Scattering:
    """A scattered wave.

    Attributes:
        scattered: The scattered field as a function of points.
        incident: The incident wave.
        condition: "soft" or "hard".
        operators: The operators of the surface, which can solve for other waves.
    """

    scattered: BoundarySolution
    incident: Incident
    condition: Condition
    operators: LayerOperators = field(repr=False)

    @property
    def density(self) -> NDArray[Any]:
        """The normal derivative of the total field on each triangle (soft), or its values at the vertices (hard).

        On a screen these are the jumps from side to side.
        """
        return self.scattered.unknown

    @property
    def notes(self) -> tuple[str, ...]:
        """What the caller should know."""
        return self.scattered.notes

    def total(self, points: ArrayLike) -> NDArray[Any]:
        """Return incident plus scattered field at points (m, 3); NaN inside of the body."""
        places = np.asarray(points, np.float64)
        return np.asarray(self.scattered(places) + self.incident.values(places))

    def far_field(self, directions: ArrayLike) -> NDArray[Any]:
        """Return f in directions (m, 3) of any length; far away, exp(i k r)/r f(direction) is the scattered field."""
        solution, mesh = self.scattered, self.scattered.mesh
        towards = np.asarray(directions, np.float64)
        if towards.ndim != 2 or towards.shape[1] != 3:
            raise ValueError(f"directions must have the shape (m, 3), not {towards.shape}")
        sizes = np.abs(towards).max(axis=1, keepdims=True)
        if not (np.isfinite(sizes) & (sizes > 0)).all():
            raise ConfigError("directions must be three finite numbers each, and not all 0")
        towards = towards / sizes
        towards = towards / np.linalg.norm(towards, axis=1, keepdims=True)
        coordinates, weights = (part.numpy() for part in gauss_rule(7))
        points = (coordinates @ mesh.corners.double().numpy()).reshape(-1, 3)
        shares = (mesh.areas.double().numpy()[:, None] * weights).reshape(-1) / (4 * math.pi)
        k = solution.wavenumber
        waves = np.exp(-1j * k * (towards @ points.T)) * shares
        total = np.zeros(len(towards), complex)
        if solution.single is not None:
            total += waves @ (solution.single.reshape(-1, 3) @ coordinates.T).reshape(-1)
        if solution.double is not None:
            density = (solution.double.reshape(-1, 3) @ coordinates.T).reshape(-1)
            normals = np.repeat(mesh.normals.double().numpy(), len(weights), axis=0)
            total += (waves * (-1j * k * (towards @ normals.T))) @ density
        return total


def solve_scattering(
    mesh: TriangleMesh,
    incident: Incident,
    wavenumber: float,
    *,
    condition: Condition = "soft",
    screen: bool | None = None,
    tolerance: float = 1e-5,
    operators: LayerOperators | None = None,
    max_iterations: int = ITERATIONS,
) -> Scattering:
    """Solve for the wave that a surface scatters.

    A soft closed body, at every wavenumber [1]: (1/2 + K' - i eta V) t = t_i - i eta u_i for the normal derivative t of
    the total field; for eta see `coupling`. A hard closed body: (1/2 - K + i/k W) u = u_i + i/k t_i for the values u of
    the total field. An open screen: V t = u_i (soft) or W u = t_i (hard) for the jumps.

    Args:
        mesh: The surface; the normals of a closed body point out.
        incident: The incident wave, such as a `PlaneWave`.
        wavenumber: k, in the inverse unit of the mesh.
        condition: "soft" where the field vanishes on the surface, "hard" where its normal derivative does.
        screen: Whether the surface is an open screen; by default, whether the mesh has open edges.
        tolerance: Tolerance of the compression, and relative residual of the solve. Triangles limit the accuracy:
            errors fall as the square of their size, on screens as their size.
        operators: Operators of this mesh and wavenumber, from an earlier solve.

    Raises:
        ConfigError: If the mesh is not usable, or too coarse for the wave or for a hard screen.
        ConvergenceError: If the iteration does not converge.

    References:
        [1] Burton, Miller, "The application of integral equation methods to the numerical solution of some exterior
            boundary-value problems", Proc. R. Soc. A 1971.
    """
    if condition not in ("soft", "hard"):
        raise ValueError(f'condition must be "soft" or "hard", not {condition!r}')
    given = getattr(incident, "wavenumber", wavenumber)
    if given != wavenumber:
        raise ConfigError(
            f"wavenumber: the incident wave has {given} and the problem {wavenumber}; give both the same"
        )
    is_screen = not mesh.is_closed if screen is None else screen
    kernel = Helmholtz(wavenumber)
    layers = operators or LayerOperators(mesh, kernel, tolerance=tolerance, screen=is_screen)
    if (layers.mesh is not mesh) or layers.kernel != kernel or layers.screen != is_screen:
        raise ValueError(
            "operators: they belong to another mesh, wavenumber or kind of surface; make them for these"
        )
    return scattered_by(
        mesh, layers, incident,
        condition=condition, tolerance=tolerance, max_iterations=max_iterations, notes=notes_on(layers),
    )  # fmt: skip


def scattered_by(
    mesh: TriangleMesh,
    layers: LayerOperators,
    incident: Incident,
    *,
    condition: Condition,
    tolerance: float,
    max_iterations: int,
    notes: tuple[str, ...],
    communicator: Communicator | None = None,
) -> Scattering:
    """Set up the equations of `solve_scattering` and solve them; collective with a communicator.

    Args:
        mesh: The triangles of this process: all of them without a communicator.
        layers: Operators of the surface.
        incident, condition, tolerance, max_iterations: See `solve_scattering`.
        notes: Notes on the surface.
        communicator: The processes among which the surface is divided. Each gets its own share of the solution.
    """
    is_screen = layers.screen
    if condition == "hard" and is_screen and not layers.n("P1_0"):
        raise ConfigError(
            "the screen has no vertex off its edge, so that there is nothing to solve for: refine the mesh"
        )
    k, eta = layers.wavenumber, coupling(layers)
    normals = np.repeat(
        mesh.normals.double().numpy(), 7, axis=0
    )  # loads are taken at seven points a triangle

    def derivatives(points: NDArray[Any]) -> NDArray[Any]:
        gradients = np.asarray(incident.gradients(points))
        if gradients.shape != points.shape:
            raise ValueError(
                f"gradients must have the shape of the points, {points.shape}, not {gradients.shape}"
            )
        return np.asarray((gradients * normals).sum(axis=1))

    space: Space = "P0"
    if condition == "soft":
        system = layers.single_layer()
        right = layers.loads(incident.values, "P0")
        if not is_screen:
            system = layers.adjoint_double_layer() + 0.5 * layers.identity() + (-1j * eta) * system
            right = layers.loads(derivatives, "P0") - 1j * eta * right
    else:
        space = "P1_0" if is_screen else "P1"
        system = layers.hypersingular(space)
        right = layers.loads(derivatives, space)
        if not is_screen:
            system = (1j / k) * system - layers.double_layer("P1", "P1") + 0.5 * layers.identity("P1", "P1")
            right = layers.loads(incident.values, "P1") + 1j / k * right
    unknown, info = solve_system(
        system, right, tolerance, max_iterations=max_iterations, communicator=communicator
    )
    density = layers.on_panels(unknown, space)
    single, double = (-density, None) if condition == "soft" else (None, density)
    side: Region | None = None if is_screen else "exterior"
    solution = BoundarySolution(mesh, k, side, single, double, unknown, space, info, notes)
    return Scattering(solution, incident, condition, layers)
