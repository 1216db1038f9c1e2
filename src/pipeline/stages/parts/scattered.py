"""Task scattering in a stage of several processes: process 0 solves, and all end together."""

from argparse import Namespace

from pipeline.artifacts.results.operator import OperatorFacts
from pipeline.artifacts.results.solution import SolutionFacts
from pipeline.artifacts.store import Artifact
from pipeline.config.matrices import SolveSpec, Wave
from pipeline.hmatrix import kernels
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import together
from pipeline.runtime.words import counted
from pipeline.stages.parts import scattering
from pipeline.stages.parts.divided import created


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
            found = scattering.answer(
                scattering.mesh_of(points),
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
