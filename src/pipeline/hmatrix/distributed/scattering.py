"""Waves scattered by a surface whose triangles are divided among processes."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike, NDArray

from pipeline.errors import ConfigError
from pipeline.hmatrix.boundary_elements.problems import ITERATIONS
from pipeline.hmatrix.boundary_elements.scattering import Condition, Incident, Scattering, scattered_by
from pipeline.hmatrix.distributed.layers import DistributedLayerOperators
from pipeline.hmatrix.krylov import SolveInfo
from pipeline.hmatrix.swap import summed
from pipeline.runtime.communicator import Communicator


@dataclass(frozen=True, eq=False)
class DistributedScattering:
    """A scattered wave.

    Attributes:
        own: What this process's triangles give.
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
        return summed(self.communicator, self.own.far_field(directions))


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
        operators: Those of the surface, for the wavenumber of the wave.
        incident: What comes in, the same on all processes.
        condition, tolerance, max_iterations: See `solve_scattering`.

    Raises:
        ConfigError: If the wave has another wavenumber than the operators, or a hard screen is too coarse.
        ConvergenceError: If the iteration does not converge.
    """
    if condition not in ("soft", "hard"):
        raise ValueError(f'condition is "soft" or "hard", not {condition!r}')
    k, communicator = operators.wavenumber, operators.communicator
    assert communicator is not None
    given = getattr(incident, "wavenumber", k)
    if given != k:
        raise ConfigError(f"wavenumber: the incident wave has {given}, not {k}; give both the same")
    own = scattered_by(
        operators.own_mesh, operators, incident,
        condition=condition, tolerance=tolerance, max_iterations=max_iterations, notes=operators.notes,
        communicator=communicator,
    )  # fmt: skip
    return DistributedScattering(own, communicator)
