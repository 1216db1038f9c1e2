"""Boundary value problems inside and outside of closed surfaces, for Laplace, Yukawa and Helmholtz."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix.boundary_elements.coupling import coupling
from pipeline.hmatrix.boundary_elements.normal_derivative import FundamentalSolution
from pipeline.hmatrix.boundary_elements.operators import BoundaryOperator, LayerOperators
from pipeline.hmatrix.boundary_elements.potentials import inside, potential
from pipeline.hmatrix.boundary_elements.spaces import Space
from pipeline.hmatrix.kernels import LaplaceSingleLayer
from pipeline.hmatrix.krylov import SolveInfo, gmres
from pipeline.meshes.triangles import TriangleMesh

logger = logging.getLogger("pipeline.hmatrix")

Region = Literal["interior", "exterior"]
BoundaryValues = Callable[[NDArray[Any]], NDArray[Any]]
_RESTART = 100
ITERATIONS = 1000  # at most, unless others are asked for
_COARSE, _COARSEST = 6.0, 3.0  # triangles for each wavelength: fewer are warned of, or refused
_BALANCED = (
    1e-2  # flux through a closed surface, of that in and out, that is taken for an error of discretization
)


@dataclass(frozen=True, eq=False)
class BoundarySolution:
    """The solution of a boundary value problem, by layers on the surface.

    Attributes:
        mesh: The surface.
        wavenumber: k of exp(i k r)/(4 pi r).
        side: The side that the solution lives on; None for a screen, which has two sides.
        single, double: Densities by their values at the corners of each triangle, shape (3 t,), or None.
        unknown: What was solved for: values of the triangles, or of the vertices.
        space: Its space.
        info: How the solve went.
        notes: What the caller should know.
    """

    mesh: TriangleMesh
    wavenumber: complex
    side: Region | None
    single: NDArray[Any] | None
    double: NDArray[Any] | None
    unknown: NDArray[Any]
    space: Space
    info: SolveInfo
    notes: tuple[str, ...] = ()

    def __call__(self, points: ArrayLike) -> NDArray[Any]:
        """Return the solution at points (m, 3), NaN at those on the surface's other side; costs O(m t).

        Raises:
            ConfigError: If a point is nearer to the surface than a quarter of a triangle.
        """
        places = np.asarray(points, np.float64)
        values = potential(self.mesh, self.wavenumber, places, single=self.single, double=self.double)
        if self.side is not None:
            values = np.where(inside(self.mesh, places) == (self.side == "interior"), values, math.nan)
        return values


def solve_dirichlet(
    mesh: TriangleMesh,
    values: ArrayLike | BoundaryValues,
    *,
    side: Region = "interior",
    kernel: FundamentalSolution | None = None,
    tolerance: float = 1e-6,
    operators: LayerOperators | None = None,
) -> BoundarySolution:
    """Solve for a field with given values on a closed surface.

    Inside, and outside for Laplace and Yukawa: V t = (K +- 1/2) u for the normal derivative t, constant on each
    triangle. Outside for Helmholtz: (1/2 + K - i eta V) phi = u with the field D phi - i eta S phi, which is solvable
    at every wavenumber [1, 2]; for eta see `coupling`. Inside, Helmholtz has resonances, where no solution is unique.

    Args:
        mesh: Closed, normals out of the body.
        values: Function of points (n, 3), or values at the vertices.
        side: The side on which the field is wanted; outside it radiates, or decays.
        kernel: Fundamental solution of the equation; Laplace's by default.
        tolerance: Tolerance of the compression, and relative residual of the solve.
        operators: Operators of this mesh and kernel, if they have been made already.

    Returns:
        The solution. The error of the field falls as h².

    Raises:
        ConfigError: If the mesh is not usable, or too coarse for the wave.
        ConvergenceError: If the iteration does not converge.

    References:
        [1] Brakhage, Werner, "Über das Dirichletsche Aussenraumproblem für die Helmholtzsche Schwingungsgleichung",
            Archiv der Mathematik 1965.
        [2] Burton, Miller, "The application of integral equation methods to the numerical solution of some exterior
            boundary-value problems", Proc. R. Soc. A 1971.
    """
    layers, notes = _layers(mesh, kernel, tolerance, operators)
    _require_side(side)
    k = layers.wavenumber
    if side == "exterior" and k.real:
        eta = coupling(layers)
        system = layers.double_layer("P0", "P0") + 0.5 * layers.mass() + (-1j * eta) * layers.single_layer()
        right = (
            layers.loads(values, "P0") if callable(values) else layers.mass("P0", "P1") @ np.asarray(values)
        )
        found, info = solve_system(system, right, tolerance)
        density = layers.on_panels(found, "P0")
        return BoundarySolution(mesh, k, side, -1j * eta * density, density, found, "P0", info, notes)
    sign = 1.0 if side == "interior" else -1.0
    u = np.asarray(values(mesh.vertices.double().numpy()) if callable(values) else values)
    _require_length(u, len(mesh.vertices), "vertices")
    right = layers.double_layer("P0", "P1") @ u + sign * 0.5 * (layers.mass("P0", "P1") @ u)
    t, info = solve_system(layers.single_layer(), right, tolerance)
    single, double = layers.on_panels(t, "P0"), layers.on_panels(u, "P1")
    return BoundarySolution(mesh, k, side, sign * single, -sign * double, t, "P0", info, notes)


def solve_neumann(
    mesh: TriangleMesh,
    derivatives: ArrayLike | Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]],
    *,
    side: Region = "interior",
    kernel: FundamentalSolution | None = None,
    tolerance: float = 1e-6,
    operators: LayerOperators | None = None,
) -> BoundarySolution:
    """Solve for a field with given derivatives along the normals of a closed surface.

    Inside: W u = (1/2 - K') t for the values u at the vertices. Outside: (1/2 - K) u = -V t for Laplace and Yukawa,
    and for Helmholtz the combination (1/2 - K + i/eta W) u = -(V + i/eta (1/2 + K')) t of Burton and Miller, which is
    solvable at every wavenumber; for eta see `coupling`. Inside, Laplace's solution is unique up to a constant: its
    mean on the surface is 0.

    Args:
        mesh: Closed, normals out of the body.
        derivatives: Function of points and normals (n, 3), or values of the triangles; along the normal out of the
            body on either side.
        side: The side on which the field is wanted; outside it radiates, or decays.
        kernel: Fundamental solution of the equation; Laplace's by default.
        tolerance: Tolerance of the compression, and relative residual of the solve.
        operators: Operators of this mesh and kernel, if they have been made already.

    Raises:
        ConfigError: If the mesh is not usable or too coarse for the wave, or if as much does not flow out as in where
            Laplace's equation holds inside.
        ConvergenceError: If the iteration does not converge.
    """
    layers, notes = _layers(mesh, kernel, tolerance, operators)
    _require_side(side)
    k = layers.wavenumber
    areas = mesh.areas.double().numpy()
    if callable(derivatives):
        t = np.asarray(derivatives(mesh.centroids.double().numpy(), mesh.normals.double().numpy()))
    else:
        t = np.asarray(derivatives)
    _require_length(t, len(mesh), "triangles")
    mass = layers.mass("P1", "P0")
    adjoint = layers.adjoint_double_layer("P1", "P0")
    if side == "interior":
        if k == 0:
            flux = float((areas * t).sum())
            if abs(flux) > _BALANCED * float((areas * np.abs(t)).sum()):
                raise ConfigError(
                    f"derivatives: {flux:.2g} flows out of the surface in all, but inside of it Laplace's equation "
                    "asks for 0; subtract the mean of the derivatives"
                )
            t = t - flux / areas.sum()
        right = 0.5 * (mass @ t) - adjoint @ t
        system = layers.hypersingular("P1")
        mean = np.asarray(layers.mass("P1", "P1").sum(axis=0)) if k == 0 else None
        u, info = solve_system(system, right, tolerance, shift=mean)
    else:
        right = -(layers.single_layer("P1", "P0") @ t)
        system = -layers.double_layer("P1", "P1") + 0.5 * layers.mass("P1", "P1")
        if k.real:
            weight = 1j / coupling(layers)
            right = right - weight * (adjoint @ t + 0.5 * (mass @ t))
            system = system + weight * layers.hypersingular("P1")
        u, info = solve_system(system, right, tolerance)
    sign = 1.0 if side == "interior" else -1.0
    single, double = layers.on_panels(t, "P0"), layers.on_panels(u, "P1")
    return BoundarySolution(mesh, k, side, sign * single, -sign * double, u, "P1", info, notes)


def solve_system(
    system: BoundaryOperator,
    right: NDArray[Any],
    tolerance: float,
    *,
    shift: NDArray[Any] | None = None,
    max_iterations: int = ITERATIONS,
) -> tuple[NDArray[Any], SolveInfo]:
    """Solve by GMRES, preconditioned by the near diagonal.

    Args:
        system: The Galerkin matrix.
        right: Right-hand side, shape (n,).
        tolerance: Relative residual, 2-norm.
        shift: Vector m whose m m^T / |m|² is added to the matrix, where constants are in its null space.
        max_iterations: Largest number of iterations.
    """
    kind = np.result_type(system.dtype, right.dtype)
    scale = torch.from_numpy(system.scaling())[:, None]
    weight = None if shift is None else torch.from_numpy(shift / np.linalg.norm(shift)).to(torch.float64)
    typical = float(scale.mean())

    def product(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = system @ x
        if weight is not None:
            y = y + typical * weight[:, None] * (weight @ x)
        return y

    if not np.isfinite(right).all():
        raise ConfigError("the values given on the surface are NaN or infinite")
    try:
        x, info = gmres(
            product,
            torch.from_numpy(np.ascontiguousarray(right, kind))[:, None],
            preconditioner=lambda r: r / scale,
            tolerance=tolerance,
            max_iterations=max_iterations,
            restart=_RESTART,
        )
    except ConvergenceError as error:
        what = str(error).split("; ask for")[0].split(" (wanted")[0]
        raise ConvergenceError(
            f"{what} (wanted {tolerance:.0e}): the mesh or its resonance makes the system near singular; look at "
            "diagnose(mesh)"
        ) from error
    return x[:, 0].numpy(), info


def notes_on_wave(mesh: TriangleMesh, wavenumber: complex) -> tuple[str, ...]:
    """Return what is to be said of a mesh that is coarse beside the wavelength.

    Raises:
        ConfigError: If it has fewer than three triangles for each wavelength somewhere.
    """
    if wavenumber.real == 0:
        return ()
    length = 2 * math.pi / abs(wavenumber.real)
    worst = int(mesh.diameters.argmax())
    count = length / float(mesh.diameters[worst])
    text = f"triangle {worst} has a diameter of {float(mesh.diameters[worst]):.2g} beside a wavelength of {length:.2g}"
    if count < _COARSEST:
        raise ConfigError(
            f"{text}: at least {_COARSEST:g} triangles for each wavelength are needed; refine the mesh, "
            "or lower the wavenumber, which is in the inverse unit of the mesh"
        )
    if count >= _COARSE:
        return ()
    note = f"{text}: less than {_COARSE:g} triangles for each wavelength make errors of several percent"
    logger.warning(note)
    return (note,)


def _layers(
    mesh: TriangleMesh,
    kernel: FundamentalSolution | None,
    tolerance: float,
    operators: LayerOperators | None,
) -> tuple[LayerOperators, tuple[str, ...]]:
    kernel = kernel or (operators.kernel if operators else LaplaceSingleLayer())
    layers = operators or LayerOperators(mesh, kernel, tolerance=tolerance)
    if layers.mesh is not mesh or layers.kernel != kernel or layers.screen:
        raise ValueError("operators: they are those of another mesh or kernel, or of a screen")
    warnings = tuple(str(finding) for finding in layers.diagnosis.warnings)
    return layers, (*warnings, *notes_on_wave(mesh, layers.wavenumber))


def _require_side(side: str) -> None:
    if side not in ("interior", "exterior"):
        raise ValueError(f'side is "interior" or "exterior", not {side!r}')


def _require_length(values: NDArray[Any], n: int, of: str) -> None:
    if values.shape != (n,):
        raise ValueError(f"values of {n} {of} are wanted, not an array of shape {values.shape}")
