"""Stage `compress`: a kernel matrix as an H2 matrix, with its error measured against exact rows."""

import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.artifacts.results.operator import Compression, Fit, OperatorFacts
from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.store import Artifact, create
from pipeline.config.matrices import CompressSpec
from pipeline.hmatrix import H2Matrix, kernels
from pipeline.hmatrix.boundary_elements import SingleLayer
from pipeline.hmatrix.gaussian_process import median_distance
from pipeline.hmatrix.inputs import Progress
from pipeline.runtime.provenance import provenance
from pipeline.stages.parts import kriging
from pipeline.stages.parts.matrices import in_words, single_layer_of
from pipeline.stages.parts.progress import boxes
from pipeline.stages.parts.spec import errors_about, read_spec
from pipeline.stages.parts.tensors import tensor

SMALLEST_NUGGET = 1e-3  # of the values' variance, in a fit: it bounds the condition number


@dataclass(frozen=True)
class Covariance:
    """A kernel with the nugget that goes with it."""

    kernel: kernels.Kernel
    nugget: float = 0.0
    nugget_at_bound: bool = False
    notes: tuple[str, ...] = ()
    fit: Fit | None = None


def run(options: Namespace) -> None:
    """Choose the kernel's parameters on the training points alone, compress, and measure the error."""
    spec = read_spec(options.spec, CompressSpec)
    points = Artifact.open(options.points, "points")
    name = options.output.parent.name
    tolerance = spec.compress.tolerance
    start = time.perf_counter()
    with errors_about(f"matrices.{name}"):
        covariance = _covariance(spec, points)
        near_field = None
        if spec.task == "capacitance":
            layer = single_layer_of(points)
            near_field = layer.computed_near_field
            with boxes(f"compress {name}") as progress:
                matrices = _single_layer(layer, covariance.kernel, tolerance, progress)
        else:
            rows = tensor(points, "points")
            kernel, nugget = covariance.kernel, covariance.nugget
            with boxes(f"compress {name}") as progress:
                operator = H2Matrix.from_kernel(
                    rows, kernel, diagonal=nugget, tolerance=tolerance, progress=progress
                )
            matrices = {"operator": operator}
    seconds = time.perf_counter() - start
    operator = matrices["operator"]
    relative_error = operator.error_estimate()
    # The dense matrix that one would otherwise store has a row per unknown; boundary elements compress more, the
    # kernel between their quadrature points.
    dense_bytes = 8 * points.facts_as(PointsFacts).n ** 2
    with create(
        options.output,
        kind="operator",
        spec=spec.model_dump(mode="json"),
        provenance=provenance(options.code),
    ) as draft:
        for folder, matrix in matrices.items():
            matrix.save(draft.path(folder))
        if near_field is not None:
            draft.save_array("near_indices", near_field.indices.numpy())
            draft.save_array("near_values", near_field.values.numpy())
            draft.save_array("near_safe_diagonal", near_field.safe_diagonal.numpy())
        table = operator.structure()
        draft.save_array("blocks", _blocks(table))
        draft.facts = OperatorFacts(
            kernel=in_words(covariance.kernel),
            kernel_parameters=covariance.kernel.to_dict(),
            nugget=covariance.nugget,
            nugget_at_bound=covariance.nugget_at_bound,
            fit=covariance.fit,
            compress=Compression(
                n_rows=operator.shape[0],
                seconds=seconds,
                n_bytes=operator.n_bytes,
                dense_bytes=dense_bytes,
                symmetric=operator.is_symmetric,
                precision=str(operator.near.values.dtype),
                tolerance=tolerance,
                relative_error=relative_error,
                missed=relative_error > 2 * tolerance,
                max_rank=max((row["largest_rank"] for row in table["levels"]), default=0),
                levels=table["levels"],
                notes=[*covariance.notes, *table["notes"]],
            ),
        )
    print(
        f"compress {name}: {operator.shape[0]} rows in {seconds:.1f} s, {operator.n_bytes / 1e6:.1f} MB, "
        f"{dense_bytes / max(operator.n_bytes, 1):.1f} times less than dense, "
        f"relative error {relative_error:.1e} (wanted {tolerance:.0e})"
    )


def _covariance(spec: CompressSpec, points: Artifact) -> Covariance:
    """The kernel and the nugget: as the study gives them, fitted by likelihood, or scaled by the median distance."""
    kernel = spec.kernel
    if spec.fit is not None and isinstance(kernel, kernels.Stationary):
        process = kriging.fitted(
            points, kernel, spec.compress.tolerance, SMALLEST_NUGGET, spec.fit.seed, spec.fit.subsample
        )
        at_bound = process.nugget_ <= 1.001 * SMALLEST_NUGGET
        fit = Fit(
            log_likelihood=process.log_likelihood_,
            n=process.n_values_,
            steps=process.n_iter_,
            intervals=process.intervals_,
        )
        return Covariance(process.kernel_, process.nugget_, at_bound, process.notes_, fit)
    if not isinstance(kernel, kernels.Stationary):
        return Covariance(kernel, spec.nugget)
    if spec.task == "classification":
        generator = torch.Generator().manual_seed(0)
        kernel = kernel.stretched(median_distance(tensor(points, "points"), generator))
    return Covariance(kernel, spec.nugget * kernel.variance)


def _single_layer(
    layer: SingleLayer, kernel: kernels.Kernel, tolerance: float, progress: Progress
) -> dict[str, H2Matrix]:
    """The kernel matrix of the quadrature points, and that of the centroids, which preconditions."""
    far = H2Matrix.from_kernel(layer.points, kernel, tolerance=tolerance, progress=progress)
    centers = H2Matrix.from_kernel(
        layer.mesh.centroids, kernel, diagonal=layer.safe_diagonal, tolerance=max(tolerance, 1e-4)
    )
    return {"operator": far, "preconditioner": centers}


def _blocks(table: Mapping[str, Any]) -> NDArray[np.int32]:
    """The blocks of a structure: first row, past last row, first column, past last column, rank or -1 if dense."""
    rows = [
        (*block["rows"], *block["columns"], -1 if block["rank"] is None else block["rank"])
        for block in table["blocks"]
    ]
    return np.array(rows, dtype=np.int32).reshape(-1, 5)
