"""Waves scattered by a surface whose triangles are divided among processes."""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import ConfigError
from pipeline.hmatrix.boundary_elements.problems import ITERATIONS
from pipeline.hmatrix.boundary_elements.scattering import Condition, Incident, Scattering, scattered_by
from pipeline.hmatrix.distributed.layers import DistributedLayerOperators
from pipeline.hmatrix.inputs import require_count, require_tolerance
from pipeline.hmatrix.kernels import Helmholtz
from pipeline.hmatrix.krylov import SolveInfo
from pipeline.hmatrix.swap import gather, summed
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import require_alike, together
from pipeline.runtime.words import shown

_TRIED = 4  # points at which the processes' waves are compared
_SAME = 1e-8  # relative difference that the rounding of different processors may cause


@dataclass(frozen=True, eq=False)
class DistributedScattering:
    """A scattered wave.

    Attributes:
        own: The wave that comes from this process's triangles.
        communicator: The processes.
    """

    own: Scattering
    communicator: Communicator

    @property
    def density(self) -> NDArray[Any]:
        """This process's share of `Scattering.density`, the shares in order."""
        return self.own.density

    @property
    def info(self) -> SolveInfo:
        """How the solve went."""
        return self.own.scattered.info

    @property
    def notes(self) -> tuple[str, ...]:
        """What the caller should know."""
        return self.own.notes

    def far_field(self, directions: ArrayLike) -> NDArray[Any]:
        """Return what `Scattering.far_field` does, on all processes; collective, with the same directions on all."""
        with together(self.communicator):
            share = self.own.far_field(directions)
            told = {"number of directions": len(share), "checksum of directions": _checksum(directions)}
        require_alike(self.communicator, told)
        return summed(self.communicator, share)


def _checksum(values: ArrayLike) -> int:
    return zlib.crc32(np.asarray(values, np.float64).tobytes())


def _require_one_wave(incident: Incident, operators: DistributedLayerOperators, condition: Condition) -> None:
    """Raise ConfigError on all processes unless their waves agree at a few points of the surface; collective."""
    communicator = operators.communicator
    assert communicator is not None
    own = operators.own_mesh.centroids.numpy()
    # The last process has a triangle, even if others have none.
    last = communicator.rank == communicator.size - 1
    points = np.concatenate(gather(communicator, own[: _TRIED if last else 0]))
    with together(communicator):
        found = [np.zeros(0)]
        if not operators.screen or condition == "soft":
            found.append(np.ravel(incident.values(points)))
        if not operators.screen or condition == "hard":
            found.append(np.ravel(incident.gradients(points)))
        values = np.concatenate(found).astype(complex)
    first, *others = gather(communicator, values)
    for rank, theirs in enumerate(others, 1):
        if first.shape != theirs.shape or not np.allclose(
            first, theirs, rtol=_SAME, atol=0.0, equal_nan=True
        ):
            raise ConfigError(
                f"incident: process {rank} has other values at the same points than process 0; pass the same wave on "
                "all processes"
            )


def solve_distributed_scattering(
    operators: DistributedLayerOperators,
    incident: Incident,
    *,
    condition: Condition = "soft",
    tolerance: float = 1e-5,
    max_iterations: int = ITERATIONS,
) -> DistributedScattering:
    """Solve for the wave that a divided surface scatters; collective. Equations are those of `solve_scattering`.

    Args:
        operators: The operators of the surface, for the wavenumber of the wave.
        incident: The incident wave, the same on all processes.
        condition, tolerance, max_iterations: See `solve_scattering`.

    Raises:
        ConfigError: If the wave has another wavenumber than the operators, or a hard screen is too coarse, or if
            processes pass different arguments.
        ConvergenceError: If the iteration does not converge.
        TypeError, ValueError: If an argument of one process is wrong. All processes raise what one does.
    """
    if not isinstance(operators, DistributedLayerOperators):
        raise TypeError(
            f"operators must be the result of DistributedLayerOperators.of, not {shown(operators)}"
        )
    k, communicator = operators.wavenumber, operators.communicator
    assert communicator is not None
    with together(communicator):
        if condition not in ("soft", "hard"):
            raise ValueError(f'condition must be "soft" or "hard", not {condition!r}')
        if not isinstance(operators.kernel, Helmholtz):
            raise ConfigError(f"operators: waves need those of Helmholtz, not {shown(operators.kernel)}")
        require_tolerance(tolerance)
        require_count(max_iterations, "max_iterations")
        given = getattr(incident, "wavenumber", k)
        if given != k:
            raise ConfigError(
                f"wavenumber: the incident wave has {given} and the problem {k}; give both the same"
            )
    require_alike(
        communicator, {"condition": condition, "tolerance": tolerance, "max_iterations": max_iterations}
    )
    _require_one_wave(incident, operators, condition)
    own = scattered_by(
        operators.own_mesh, operators, incident,
        condition=condition, tolerance=tolerance, max_iterations=max_iterations, notes=operators.notes,
        communicator=communicator,
    )  # fmt: skip
    return DistributedScattering(own, communicator)
