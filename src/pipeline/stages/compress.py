"""Stage `compress`: a kernel matrix as an H2 matrix, with its error measured against exact rows."""

import time
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artifacts.store import Artifact, create
from pipeline.errors import PipelineError
from pipeline.hmatrix import H2Matrix, kernels
from pipeline.hmatrix.boundary_elements import SingleLayer, TriangleMesh
from pipeline.hmatrix.gaussian_process import fit_matern, median_distance
from pipeline.runtime.provenance import provenance
from pipeline.stages.shared import read_spec


def run(options: Namespace) -> None:
    """Choose the kernel's parameters on the training points alone, compress, and measure the error."""
    spec = read_spec(options.spec)
    points = Artifact.open(options.points, "points")
    name = options.output.parent.name
    tolerance = spec["compress"]["tolerance"]
    start = time.perf_counter()
    try:
        if spec["task"] == "capacitance":
            kernel, nugget = kernels.build(spec["kernel"]["name"]), 0.0
            matrices = _single_layer(single_layer_of(points), kernel, tolerance)
        else:
            kernel, nugget = _kernel(spec, points)
            rows = torch.from_numpy(np.array(points.array("points")))
            matrices = {"operator": H2Matrix.from_kernel(rows, kernel, diagonal=nugget, tolerance=tolerance)}
    except PipelineError as error:
        raise type(error)(f"matrices.{name}: {error}") from error
    seconds = time.perf_counter() - start
    operator = matrices["operator"]
    relative_error = operator.error_estimate()
    with create(options.output, kind="operator", spec=spec, provenance=provenance(options.code)) as draft:
        for folder, matrix in matrices.items():
            matrix.save(draft.path(folder))
        table = operator.structure()
        draft.save_array("blocks", blocks_of(table))
        draft.facts |= {
            "kernel": in_words(kernel),
            "kernel_parameters": kernel.to_dict(),
            "nugget": nugget,
            "compress": {
                "n_rows": operator.shape[0],
                "seconds": seconds,
                "n_bytes": operator.n_bytes,
                "dense_bytes": table["dense_bytes"],
                "tolerance": tolerance,
                "relative_error": relative_error,
                "max_rank": max((row["largest_rank"] for row in table["levels"]), default=0),
                "levels": table["levels"],
                "notes": table["notes"],
            },
        }
    saved = table["dense_bytes"] / max(operator.n_bytes, 1)
    print(
        f"compress {name}: {operator.shape[0]} rows in {seconds:.1f} s, {operator.n_bytes / 1e6:.1f} MB, "
        f"{saved:.1f} times less than dense, relative error {relative_error:.1e} (wanted {tolerance:.0e})"
    )


def in_words(kernel: kernels.Kernel) -> str:
    """A kernel for reading: its name, and its parameters to four digits."""
    parameters = {key: value for key, value in kernel.to_dict().items() if key != "name"}
    words = ", ".join(f"{key} {value:.4g}" for key, value in parameters.items())
    return f"{type(kernel).__name__}({words})"


def single_layer_of(points: Artifact) -> SingleLayer:
    """The boundary elements of a mesh that was written by the stage `points`."""
    vertices, triangles = (
        torch.from_numpy(np.array(points.array(name))) for name in ("vertices", "triangles")
    )
    return SingleLayer(TriangleMesh(vertices, triangles))


def _single_layer(layer: SingleLayer, kernel: kernels.Kernel, tolerance: float) -> dict[str, H2Matrix]:
    """The kernel matrix of the quadrature points, and that of the centroids, which preconditions."""
    far = H2Matrix.from_kernel(layer.points, kernel, tolerance=tolerance)
    centers = H2Matrix.from_kernel(
        layer.mesh.centroids, kernel, diagonal=layer.safe_diagonal, tolerance=max(tolerance, 1e-4)
    )
    return {"operator": far, "preconditioner": centers}


def _kernel(spec: Mapping[str, Any], points: Artifact) -> tuple[kernels.Kernel, float]:
    """The kernel and the nugget: as the study gives them, fitted by likelihood, or scaled by the median distance."""
    parameters, nugget = dict(spec["kernel"]), float(spec["nugget"])
    rows = torch.from_numpy(np.array(points.array("points")))
    if spec["fit"] is not None:
        generator = torch.Generator().manual_seed(spec["fit"]["seed"])
        values = standardized(points)[0]
        fit = fit_matern(
            rows, values, generator=generator, nu=parameters["nu"], subsample=spec["fit"]["subsample"]
        )
        return fit.kernel, fit.nugget
    if spec["task"] == "classification":
        parameters["length_scale"] *= median_distance(rows, torch.Generator().manual_seed(0))
    variance = parameters.get("variance", 1.0)
    return kernels.build(parameters.pop("name"), **parameters), nugget * variance


def standardized(points: Artifact) -> tuple[Tensor, float, float]:
    """The training values with mean 0 and variance 1, and the mean and deviation taken off."""
    values = torch.from_numpy(np.array(points.array("values"))).double()
    mean, deviation = float(values.mean()), float(values.std())
    return (values - mean) / (deviation or 1.0), mean, deviation or 1.0


def blocks_of(table: Mapping[str, Any]) -> NDArray[np.int32]:
    """The blocks of a structure: first row, past last row, first column, past last column, rank or -1 if dense."""
    rows = [
        (*block["rows"], *block["columns"], -1 if block["rank"] is None else block["rank"])
        for block in table["blocks"]
    ]
    return np.array(rows, dtype=np.int32).reshape(-1, 5)
