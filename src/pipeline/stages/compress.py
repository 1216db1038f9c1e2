"""Stage `compress`: compress a kernel matrix into an H2 matrix on all processes; measure its error on exact rows."""

import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pipeline.artifacts.results.operator import Compression, FittedCovariance, Level, OperatorFacts
from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.store import Artifact
from pipeline.config.matrices import CompressSpec, Fit
from pipeline.errors import errors_about
from pipeline.hmatrix import DistributedH2Matrix, kernels
from pipeline.hmatrix.boundary_elements import NearField, notes_on_wave
from pipeline.hmatrix.distributed import DistributedLowRank, OwnTriangles
from pipeline.hmatrix.gaussian_process import median_distance
from pipeline.hmatrix.inputs import Progress
from pipeline.runtime.clock import boxes
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.together import together
from pipeline.runtime.words import counted
from pipeline.stages.parts import kriging
from pipeline.stages.parts.divided import created, own_rows
from pipeline.stages.parts.matrices import in_words, own_triangles, save_near_field
from pipeline.stages.parts.scattering import mesh_of
from pipeline.stages.parts.spec import read_spec
from pipeline.stages.parts.work import (
    CompressedMatrix,
    predicted_memory_of,
    require_memory,
    work_of_compression,
)

SMALLEST_NUGGET = 1e-3  # in a fit, relative to the values' variance: it bounds the condition number


@dataclass(frozen=True)
class KernelWithNugget:
    kernel: kernels.Kernel
    nugget: float = 0.0
    nugget_at_bound: bool = False
    notes: tuple[str, ...] = ()
    fit: FittedCovariance | None = None


def run(options: Namespace) -> None:
    """Choose the kernel's parameters on the training points alone, compress on all processes, and measure the error."""
    name = options.output.parent.name
    with errors_about(f"matrices.{name}"):
        _compress(options, name, MpiCommunicator.of(options.processes))


def _compress(options: Namespace, name: str, communicator: MpiCommunicator) -> None:
    first = communicator.rank == 0
    with together(communicator):
        spec = read_spec(options.spec, CompressSpec)
        points = Artifact.open(options.points, "points", contents=first)
        if spec.task not in ("capacitance", "scattering"):
            few = points.array("points")[: kernels.TRIED]
            kernels.require_usable(spec.kernel, np.array(few, np.float64))
    predicted = predicted_memory_of(
        points, spec.compress.tolerance, 1.0, communicator.size, fit=spec.fit, form=spec.compress.form
    )
    require_memory(predicted.compress_bytes, communicator)
    covariance = _everybodys_covariance(spec, points, communicator)
    start = time.perf_counter()
    with boxes(f"compress {name}", shown=first) as progress:
        matrices, near_field = _matrices(spec, points, covariance, communicator, progress if first else None)
    seconds = time.perf_counter() - start
    operator = matrices["operator"]
    relative_error = operator.error_estimate()
    levels, (blocks, left_out) = operator.level_table(), operator.shown_blocks()
    work = work_of_compression(matrices.values(), seconds, predicted.compress_bytes, communicator)
    numbers = operator.factor if isinstance(operator, DistributedLowRank) else operator.form.near.inner.values
    # The dense alternative has a row per unknown. For boundary elements the compressed matrix is larger: the kernel
    # between their quadrature points.
    n = points.facts_as(PointsFacts).n
    notes = [*covariance.notes, *operator.notes]
    if left_out:
        notes.append(
            f"{counted(left_out, 'block')} of fine levels {'is' if left_out == 1 else 'are'} not drawn"
        )
    facts = OperatorFacts(
        kernel=in_words(covariance.kernel),
        kernel_parameters=covariance.kernel.to_dict(),
        nugget=covariance.nugget,
        nugget_at_bound=covariance.nugget_at_bound,
        fit=covariance.fit,
        compress=Compression(
            n_rows=operator.shape[0],
            seconds=seconds,
            n_bytes=work.n_bytes,
            dense_bytes=(16 if covariance.kernel.is_complex else 8) * n**2,
            symmetric=not isinstance(operator, DistributedLowRank) and operator.form.mirrored,
            precision=str(numbers.dtype),
            tolerance=spec.compress.tolerance,
            relative_error=relative_error,
            missed=relative_error > 2 * spec.compress.tolerance,
            max_rank=max((row["largest_rank"] for row in levels), default=0),
            levels=[Level(**row) for row in levels],
            notes=notes,
            form=spec.compress.form,
        ),
    )
    with created(options, spec, communicator, kind="operator") as draft:
        for folder, matrix in matrices.items():
            if draft is not None:
                draft.path(folder)
            matrix.save(options.output.parent / folder)
        if near_field is not None:
            save_near_field(draft, *near_field, n, communicator)
        if draft is not None:
            draft.save_array("blocks", blocks)
            for table, rows in work.tables.items():
                draft.save_table(table, rows)
            draft.facts = facts
    if first:
        told = facts.compress
        ratio = told.dense_bytes / max(told.n_bytes, 1)
        beside = (
            f"{ratio:.1f} times less than dense" if ratio >= 1 else f"{1 / ratio:.1f} times as much as dense"
        )
        beside = "about as much as dense" if 1 / 1.05 < ratio < 1.05 else beside
        fit = covariance.fit
        fitting = f" after a fit of {fit.seconds:.1f} s" if fit and fit.seconds else ""
        print(
            f"compress {name}: {counted(told.n_rows, 'row')} in {seconds:.1f} s{fitting} on "
            f"{counted(communicator.size, 'process', 'processes')}, "
            f"{told.n_bytes / 1e6:.1f} MB, {beside}, "
            f"relative error {relative_error:.1e} (wanted {told.tolerance:.0e})"
        )


def _matrices(
    spec: CompressSpec,
    points: Artifact,
    covariance: KernelWithNugget,
    communicator: Communicator,
    progress: Progress | None,
) -> tuple[Mapping[str, CompressedMatrix], tuple[NearField, OwnTriangles] | None]:
    """Compress the matrix to solve with, and for boundary elements a preconditioner; return their near field too."""
    kernel, tolerance = covariance.kernel, spec.compress.tolerance
    h2 = partial(
        DistributedH2Matrix.from_kernel, kernel=kernel, communicator=communicator, tolerance=tolerance
    )
    if spec.task not in ("capacitance", "scattering"):
        with together(communicator):
            rows = own_rows(points, "points", communicator)
        if spec.compress.form == "low_rank":
            low_rank = DistributedLowRank.from_kernel(
                rows, kernel, communicator, diagonal=covariance.nugget, tolerance=tolerance
            )
            return {"operator": low_rank}, None
        return {"operator": h2(rows, diagonal=covariance.nugget, progress=progress)}, None
    if isinstance(kernel, kernels.Helmholtz):
        with together(communicator):
            notes_on_wave(mesh_of(points), complex(kernel.wavenumber))  # refuses a mesh that is too coarse
            nodes = own_triangles(points, communicator).points
        return {"operator": h2(nodes, progress=progress)}, None
    with together(communicator):
        own = own_triangles(points, communicator)
        near_field = own.near_field()
    far = h2(own.points, progress=progress)
    centers = h2(own.centroids, diagonal=near_field.safe_diagonal, tolerance=max(tolerance, 1e-4))
    return {"operator": far, "preconditioner": centers}, (near_field, own)


def _everybodys_covariance(
    spec: CompressSpec, points: Artifact, communicator: MpiCommunicator
) -> KernelWithNugget:
    """Return the kernel and the nugget that the study asks for, the same on all processes; collective."""
    kernel = spec.kernel
    if not isinstance(kernel, kernels.Stationary):
        return KernelWithNugget(kernel, spec.nugget)
    if spec.fit is not None:
        return _fitted(spec, kernel, spec.fit, points, communicator)
    if spec.task == "classification":
        distance = 0.0
        with together(communicator):
            if communicator.rank == 0:
                generator = torch.Generator().manual_seed(0)
                distance = median_distance(points.tensor("points"), generator)
        kernel = kernel.stretched(float(communicator.broadcast_text(repr(distance), source=0)))
    return KernelWithNugget(kernel, spec.nugget * kernel.variance)


def _fitted(
    spec: CompressSpec, kernel: kernels.Stationary, asked: Fit, points: Artifact, communicator: Communicator
) -> KernelWithNugget:
    """Return the kernel and the nugget of maximum likelihood, the same on all processes; collective."""
    start = time.perf_counter()
    process = kriging.fitted(points, kernel, spec.compress.tolerance, SMALLEST_NUGGET, asked, communicator)
    fit = FittedCovariance(
        log_likelihood=process.log_likelihood_,
        n=process.n_values_,
        steps=process.n_iter_,
        intervals=process.intervals_,
        seconds=time.perf_counter() - start,
    )
    at_bound = process.nugget_ <= 1.001 * SMALLEST_NUGGET
    return KernelWithNugget(process.kernel_, process.nugget_, at_bound, process.notes_, fit)
