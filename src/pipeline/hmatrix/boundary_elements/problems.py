"""Boundary value problems inside and outside of closed surfaces, for Laplace, Yukawa and Helmholtz."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix.boundary_elements.accuracy import notes_on_shape
from pipeline.hmatrix.boundary_elements.boundary_operator import BoundaryOperator
from pipeline.hmatrix.boundary_elements.constants import Constants
from pipeline.hmatrix.boundary_elements.coupling import coupling
from pipeline.hmatrix.boundary_elements.known_waves import KnownWaves
from pipeline.hmatrix.boundary_elements.normal_derivative import FundamentalSolution
from pipeline.hmatrix.boundary_elements.operators import LayerOperators
from pipeline.hmatrix.boundary_elements.potentials import inside, potential
from pipeline.hmatrix.boundary_elements.spaces import Space
from pipeline.hmatrix.inputs import require_count, require_tolerance
from pipeline.hmatrix.kernels import LaplaceSingleLayer
from pipeline.hmatrix.krylov import SolveInfo, gmres
from pipeline.hmatrix.swap import summed
from pipeline.meshes.triangles import TriangleMesh
from pipeline.runtime.communicator import Communicator

logger = logging.getLogger("pipeline.hmatrix")

Region = Literal["interior", "exterior"]
BoundaryValues = Callable[[NDArray[Any]], NDArray[Any]]
_RESTART = 100
ITERATIONS = 1000  # default of the largest number of iterations
_COARSE, _COARSEST = 6.0, 3.0  # triangles per wavelength: with fewer, a warning or an error
# Size of a triangle relative to the length 1/decay over which a screened field falls: beyond, a warning or an error.
_STEEP, _STEEPEST = 1.0, 5.0


@dataclass(frozen=True, eq=False)
class BoundarySolution:
    """The solution of a boundary value problem, as potentials of layers on the surface.

    Attributes:
        mesh: The surface.
        wavenumber: k of exp(i k r)/(4 pi r).
        side: The side that the solution lives on; None for a screen, which has two sides.
        single, double: Densities by their values at the corners of each triangle, shape (3 t,), or None.
        unknown: What was solved for: values of the triangles, or of the vertices.
        space: The space of `unknown`.
        info: Figures of the solve.
        notes: Remarks for the caller.
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
        """Return the solution at points (m, 3), NaN on the other side of the surface; costs O(m t).

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
    at every wavenumber [1, 2]; for eta see `coupling`. Inside, Helmholtz has resonances, at which solutions are not
    unique. Known fields are solved for together with the wanted one, and show if a resonance is near: the result then
    has a note, or an error is raised.

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
        ConvergenceError: If the iteration does not converge, or the wavenumber is too near a resonance.

    References:
        [1] Brakhage, Werner, "Über das Dirichletsche Aussenraumproblem für die Helmholtzsche Schwingungsgleichung",
            Archiv der Mathematik 1965.
        [2] Burton, Miller, "The application of integral equation methods to the numerical solution of some exterior
            boundary-value problems", Proc. R. Soc. A 1971.
    """
    layers, notes = _layers(mesh, kernel, tolerance, operators)
    _require_side(side)
    k = layers.wavenumber
    vertices = mesh.vertices.double().numpy()
    if not callable(values):
        values = _of_length(values, len(vertices), "vertices")
    if side == "exterior" and k.real:
        eta = coupling(layers)
        system = layers.double_layer("P0", "P0") + 0.5 * layers.mass() + (-1j * eta) * layers.single_layer()
        right = layers.loads(values, "P0") if callable(values) else layers.mass("P0", "P1") @ values
        found, info = solve_system(system, right, tolerance)
        density = layers.on_panels(found, "P0")
        return BoundarySolution(mesh, k, side, -1j * eta * density, density, found, "P0", info, notes)
    sign = 1.0 if side == "interior" else -1.0
    u = _of_length(values(vertices), len(vertices), "vertices") if callable(values) else values
    waves = KnownWaves(k) if side == "interior" and k.real else None
    u = np.column_stack([u] if waves is None else [u, waves.values(vertices)])
    right = layers.double_layer("P0", "P1") @ u + sign * 0.5 * (layers.mass("P0", "P1") @ u)
    t, info = solve_system(layers.single_layer(), right, tolerance)
    fields = _fields(layers, side, t, u, t, "P0", info, notes)
    return fields[0] if waves is None else _judged(waves, fields)


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
    mean on the surface of each body is 0, cavities included. Helmholtz has resonances inside; see `solve_dirichlet`.

    Args:
        mesh: Closed, normals out of the body.
        derivatives: Derivatives along the normal out of the body, for either side: a function of points and normals
            (n, 3), or values of the triangles.
        side: The side on which the field is wanted; outside it radiates, or decays.
        kernel: Fundamental solution of the equation; Laplace's by default.
        tolerance: Tolerance of the compression, and relative residual of the solve.
        operators: Operators of this mesh and kernel, if they have been made already.

    Raises:
        ConfigError: If the mesh is not usable or too coarse for the wave; for Laplace's equation also if the net flux
            out of a body is not 0 (inside), or if a body has a cavity (outside).
        ConvergenceError: If the iteration does not converge, or the wavenumber is too near a resonance.
    """
    layers, notes = _layers(mesh, kernel, tolerance, operators)
    _require_side(side)
    k = layers.wavenumber
    if callable(derivatives):
        derivatives = derivatives(mesh.centroids.double().numpy(), mesh.normals.double().numpy())
    t = _of_length(derivatives, len(mesh), "triangles")
    waves = KnownWaves(k) if side == "interior" and k.real else None
    constants = Constants.of(layers) if k == 0 else None
    if constants is not None and side == "interior":
        t = constants.balanced(t)
    if constants is not None and side == "exterior" and constants.has_cavity:
        raise ConfigError(
            "the mesh has a cavity, whose inside counts as exterior, too, and no field is unique there; leave the "
            "cavity's surface out"
        )
    t = t[:, None]
    if waves is not None:
        given = waves.derivatives(mesh.centroids.double().numpy(), mesh.normals.double().numpy())
        t = np.column_stack([t, given])
    mass = layers.mass("P1", "P0")
    adjoint = layers.adjoint_double_layer("P1", "P0")
    if side == "interior":
        right = 0.5 * (mass @ t) - adjoint @ t
        system = layers.hypersingular("P1")
        if constants is None:
            u, info = solve_system(system, right, tolerance)
        else:
            weights = np.asarray(layers.mass("P1", "P1").sum(axis=0))
            u, info = solve_system(system, right, tolerance, shift=(weights, constants.of_vertices))
            left = layers.double_layer("P0", "P1") @ u + 0.5 * (layers.mass("P0", "P1") @ u)
            residual = layers.single_layer("P0", "P0") @ t - left
            u = constants.completed(u[:, 0], residual[:, 0], weights)[:, None]
    else:
        right = -(layers.single_layer("P1", "P0") @ t)
        system = -layers.double_layer("P1", "P1") + 0.5 * layers.mass("P1", "P1")
        if k.real:
            weight = 1j / coupling(layers)
            right = right - weight * (adjoint @ t + 0.5 * (mass @ t))
            system = system + weight * layers.hypersingular("P1")
        u, info = solve_system(system, right, tolerance)
    fields = _fields(layers, side, t, u, u, "P1", info, notes)
    return fields[0] if waves is None else _judged(waves, fields)


def solve_system(
    system: BoundaryOperator,
    right: NDArray[Any],
    tolerance: float,
    *,
    shift: tuple[NDArray[np.float64], NDArray[np.int64]] | None = None,
    max_iterations: int = ITERATIONS,
    communicator: Communicator | None = None,
) -> tuple[NDArray[Any], SolveInfo]:
    """Solve by GMRES, preconditioned by the near diagonal; collective with a communicator.

    Args:
        system: The Galerkin matrix.
        right: Right-hand sides, shape (n,) or (n, m).
        tolerance: Relative residual, 2-norm.
        shift: Weights m and groups of the unknowns, for a matrix whose null space has the constants on each group:
            m m^T / |m|² of each group, times the mean of the near diagonal, is added to the matrix.
        max_iterations: Largest number of iterations.
        communicator: The processes among which the unknowns are divided. A shift works on one process only.

    Raises:
        ConfigError, TypeError, ValueError: If right-hand sides are not finite, or options are wrong.
        ConvergenceError: If the tolerance is not reached.
    """
    require_tolerance(tolerance)
    require_count(max_iterations, "max_iterations")
    kind = np.result_type(system.dtype, right.dtype)
    scale = torch.from_numpy(system.scaling())[:, None]
    if shift is not None:
        sizes = np.sqrt(np.bincount(shift[1], shift[0] ** 2))
        weight = torch.from_numpy(shift[0] / sizes[shift[1]])[:, None]
        group = torch.from_numpy(shift[1]).long()
    typical = float(scale.mean()) if len(scale) else 0.0

    def product(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = system @ x
        if shift is not None:
            sums = torch.zeros(len(sizes), x.shape[1], dtype=x.dtype).index_add_(0, group, weight * x)
            y = y + typical * weight * sums[group]
        return y

    wrong = np.array([np.count_nonzero(~np.isfinite(right))])
    if (wrong if communicator is None else summed(communicator, wrong)).any():
        raise ConfigError("the values given on the surface are NaN or infinite; make them finite")
    try:
        x, info = gmres(
            product,
            torch.from_numpy(
                np.ascontiguousarray(right.reshape(len(right), math.prod(right.shape[1:])), kind)
            ),
            preconditioner=lambda r: r / scale,
            tolerance=tolerance,
            max_iterations=max_iterations,
            restart=_RESTART,
            communicator=communicator,
        )
    except ConvergenceError as error:
        what = str(error).split("; ask for")[0].split(" (wanted")[0]
        raise ConvergenceError(
            f"{what} (wanted {tolerance:.0e}): the mesh, or a wavenumber near a resonance of the body, makes the "
            "system near singular; look at diagnose(mesh)"
        ) from error
    return x.numpy().reshape(right.shape), info


def _fields(
    layers: LayerOperators,
    side: Region,
    t: NDArray[Any],
    u: NDArray[Any],
    unknown: NDArray[Any],
    space: Space,
    info: SolveInfo,
    notes: tuple[str, ...],
) -> list[BoundarySolution]:
    """Return the fields of derivatives (triangles, m) and values (vertices, m) on a closed surface."""
    sign = 1.0 if side == "interior" else -1.0
    single, double = layers.on_panels(t, "P0"), layers.on_panels(u, "P1")
    return [
        BoundarySolution(
            layers.mesh, layers.wavenumber, side, sign * single[:, i], -sign * double[:, i], unknown[:, i], space,
            info, notes,
        )
        for i in range(t.shape[1])
    ]  # fmt: skip


def _judged(waves: KnownWaves, fields: list[BoundarySolution]) -> BoundarySolution:
    """Return the first field, with notes from the others, which should be the known waves."""
    first = fields[0]
    return replace(first, notes=(*first.notes, *waves.judge(first.mesh, fields[1:])))


def notes_on(layers: LayerOperators) -> tuple[str, ...]:
    """Return notes on a surface: the warnings of its diagnosis, and errors due to thin triangles and short waves.

    Raises:
        ConfigError: If integrals are so wrong, or triangles so large beside a wave, that a solution would be
            meaningless.
    """
    warnings = tuple(str(finding) for finding in layers.diagnosis.warnings)
    return (*warnings, *notes_on_shape(layers), *notes_on_wave(layers.mesh, layers.wavenumber))


def notes_on_wave(mesh: TriangleMesh, wavenumber: complex) -> tuple[str, ...]:
    """Return notes on a mesh that is coarse beside the wavelength, or beside the decay of a field.

    Raises:
        ConfigError: If the mesh has fewer than three triangles for each wavelength somewhere, or a triangle more than
            five times as long as the distance 1/decay.
    """
    worst = int(mesh.diameters.argmax())
    size = float(mesh.diameters[worst])
    told = f"triangle {worst} has a diameter of {size:.2g} beside"
    notes = []
    if wavenumber.real != 0:
        length = 2 * math.pi / abs(wavenumber.real)
        text = f"{told} a wavelength of {length:.2g}"
        if length / size < _COARSEST:
            raise ConfigError(
                f"{text}: at least {_COARSEST:g} triangles for each wavelength are needed; refine the mesh, "
                "or lower the wavenumber, which is in the inverse unit of the mesh"
            )
        if length / size < _COARSE:
            notes.append(
                f"{text}: less than {_COARSE:g} triangles for each wavelength make errors of several percent"
            )
    steepness = size * abs(wavenumber.imag)
    if steepness > _STEEP:
        text = f"{told} a length of {1 / abs(wavenumber.imag):.2g} over which the field decays"
        if steepness > _STEEPEST:
            raise ConfigError(
                f"{text}: at most {_STEEPEST:g} times as much is possible; refine the mesh, or lower the decay, which "
                "is in the inverse unit of the mesh"
            )
        notes.append(f"{text}: triangles longer than that make errors of several percent and more")
    for note in notes:
        logger.warning(note)
    return tuple(notes)


def _layers(
    mesh: TriangleMesh,
    kernel: FundamentalSolution | None,
    tolerance: float,
    operators: LayerOperators | None,
) -> tuple[LayerOperators, tuple[str, ...]]:
    kernel = kernel or (operators.kernel if operators else LaplaceSingleLayer())
    layers = operators or LayerOperators(mesh, kernel, tolerance=tolerance)
    if layers.mesh is not mesh or layers.kernel != kernel or layers.screen:
        raise ValueError(
            "operators: they belong to another mesh or kernel, or to a screen; make them for this mesh and kernel"
        )
    return layers, notes_on(layers)


def _require_side(side: str) -> None:
    if side not in ("interior", "exterior"):
        raise ValueError(f'side must be "interior" or "exterior", not {side!r}')


def _of_length(values: ArrayLike, n: int, of: str) -> NDArray[Any]:
    """Return values as an array (n,)."""
    array = np.asarray(values)
    if array.shape != (n,):
        raise ValueError(f"values must be one for each of {n} {of}, not an array of shape {array.shape}")
    return array
