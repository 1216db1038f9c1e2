"""Stage `solve`: factorize and solve on all processes, and answer the matrix's question."""

from argparse import Namespace
from dataclasses import replace

import torch

from pipeline.artifacts.results.operator import OperatorFacts
from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.results.solution import SolveCost
from pipeline.artifacts.store import Artifact
from pipeline.config.matrices import Factor, SolveSpec, Wave, require_drawable
from pipeline.errors import errors_about
from pipeline.hmatrix import kernels
from pipeline.hmatrix.distributed import DistributedFactorization, DistributedLowRank, LowRankFactorization
from pipeline.hmatrix.krylov import conjugate_gradient, gmres
from pipeline.runtime.clock import Stopwatch, boxes
from pipeline.runtime.device import choose_device
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.together import together
from pipeline.runtime.words import counted
from pipeline.stages.parts.answers import ANSWERS, product
from pipeline.stages.parts.scattering import answer as scatter
from pipeline.stages.parts.solved import Answer, Solved, dense_seconds, exact_residual
from pipeline.stages.parts.spec import read_spec
from pipeline.stages.parts.systems import problem_of
from pipeline.stages.parts.work import predicted_memory_of, require_memory, work_of_factorization


def run(options: Namespace) -> None:
    """Solve on all processes that started together; the first one writes the answer."""
    name = options.output.parent.name
    with errors_about(f"matrices.{name}"):
        communicator = MpiCommunicator.of(options.processes)
        with together(communicator):
            spec = read_spec(options.spec, SolveSpec)
        _answer(spec, options, name, communicator).save(options, spec, communicator)


def _answer(spec: SolveSpec, options: Namespace, name: str, communicator: MpiCommunicator) -> Answer:
    first = communicator.rank == 0
    with together(communicator):
        points = Artifact.open(options.points, "points", contents=first)
        compressed = Artifact.open(options.operator, "operator", contents=first)
    facts = compressed.facts_as(OperatorFacts)
    compress = facts.compress
    if spec.task == "scattering":
        kernel = kernels.from_dict(facts.kernel_parameters)
        assert isinstance(kernel, kernels.Helmholtz)
        surface = points.array("vertices"), points.array("triangles")
        return scatter(*surface, kernel, spec.wave or Wave(), compress.tolerance, spec.solve, communicator)
    watch = Stopwatch()
    with watch.part("assemble"):
        problem = problem_of(spec, points, compressed, communicator)
    if spec.task == "product":
        vectors = Solved(spec, points, compressed, problem.right_hand_side, spec.vectors or "", communicator)
        return product(problem, vectors)
    factor_tolerance = spec.factor.tolerance
    if spec.task == "sample":
        require_drawable(spec.samples or 1, points.facts_as(PointsFacts).n)
    if spec.task in ("logdet", "sample"):  # the factorization is the answer, not just a preconditioner
        factor_tolerance = min(factor_tolerance, compress.tolerance)
    predicted = predicted_memory_of(
        points, compress.tolerance, factor_tolerance, communicator.size,
        kriging=spec.task == "kriging", form=compress.form,
    )  # fmt: skip
    require_memory(predicted.solve_bytes, communicator)
    with watch.part("factorize"), boxes(f"factorize {name}", shown=first) as progress:
        factorization: DistributedFactorization | LowRankFactorization
        if isinstance(problem.preconditioner, DistributedLowRank):
            factorization = problem.preconditioner.factorize()
        else:
            factorization = problem.preconditioner.factorize(
                factor_tolerance,
                kind=spec.factor.kind,
                parts=spec.factor.parts,
                device=_device(spec.factor, communicator),
                speeds="measured" if spec.factor.balance == "measured" else None,
                progress=progress if first else None,
            )
    notes = [*factorization.notes]
    if notes and factorization.used_tolerance != factor_tolerance:
        notes[0] += (
            f" ({factor_tolerance:.0e} is factor.tolerance, with which a preconditioner begins; compress.tolerance and "
            "solve.tolerance stay as they are)"
        )
    with watch.part("solve"):
        # GMRES where the matrix is not positive definite.
        method = conjugate_gradient if factorization.kind == "cholesky" else gmres
        solution, info = method(
            problem.operator.__matmul__,
            problem.right_hand_side,
            preconditioner=factorization.solve,
            tolerance=spec.solve.tolerance,
            max_iterations=spec.solve.max_iterations,
            communicator=communicator,
        )
    # A low-rank matrix replaces what its columns leave out by a diagonal. Its small eigenvalues are then not those of
    # the exact matrix, whatever the tolerance of products, and the determinant weighs them as much as large ones.
    told = factorization.kind == "cholesky" and isinstance(factorization, DistributedFactorization)
    logdet = factorization.logdet() if told else None
    given = "values at the points" if points.has("values") else "ones"
    solved = Solved(
        spec, points, compressed, solution, spec.right_hand_side or given, communicator, factorization
    )
    answer = ANSWERS[spec.task](solved)
    residual = exact_residual(solved, problem.right_hand_side)
    dense = dense_seconds(solved, solution[0].numel()) if first and len(solution) else None
    seconds = sum(watch.seconds.values())
    work = work_of_factorization(factorization, seconds, predicted.solve_bytes, communicator)
    speeds = [row for speed in factorization.speeds for row in speed.rows()]
    return replace(
        answer,
        lines=(
            *notes,
            f"factorized in {watch.seconds['factorize']:.1f} s, {counted(info.iterations, 'iteration')} on "
            f"{counted(communicator.size, 'process', 'processes')}, residual {info.residuals[-1]:.1e} of the "
            "compressed matrix",
            *answer.lines,
        ),
        rows={"solution": solution.numpy(), **answer.rows},
        tables={
            "residuals": [{"iteration": i, "residual": r} for i, r in enumerate(info.residuals)],
            **work.tables,
            **({"speeds": speeds} if factorization.speeds else {}),
        },
        cost=SolveCost(
            assemble_seconds=watch.seconds["assemble"],
            factorize_seconds=watch.seconds["factorize"],
            factor_bytes=work.n_bytes,
            factor_tolerance=factorization.used_tolerance,
            factor_kind=factorization.kind,
            solve_seconds=watch.seconds["solve"],
            iterations=info.iterations,
            relative_residual=info.residuals[-1],
            exact_residual=residual,
            logdet=logdet,
            processes=communicator.size,
            notes=[*notes, *info.notes],
            tolerance=spec.solve.tolerance,
            dense_seconds=dense,
        ),
    )


def _device(options: Factor, communicator: MpiCommunicator) -> torch.device | None:
    """Return the GPU on which this process eliminates in batches; None for native work on cores."""
    if options.balance == "equal":
        return None
    device = choose_device("auto", communicator.local_rank)
    return None if device.type == "cpu" else device
