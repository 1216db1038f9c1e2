"""Points and kernels of a study's matrices."""

from torch import Tensor

from pipeline.artifacts.store import Artifact
from pipeline.hmatrix.boundary_elements import NearField, SingleLayer, TriangleMesh
from pipeline.hmatrix.kernels import Kernel
from pipeline.stages.parts.tensors import tensor


def single_layer_of(points: Artifact, compressed: Artifact | None = None) -> SingleLayer:
    """The boundary elements of a mesh that was written by the stage `points`.

    The near field, costly beside all else, is read where the stage `compress` has written it.
    """
    near_field = None
    if compressed is not None:
        near_field = NearField(
            indices=tensor(compressed, "near_indices"),
            values=tensor(compressed, "near_values"),
            safe_diagonal=tensor(compressed, "near_safe_diagonal"),
        )
    mesh = TriangleMesh(tensor(points, "vertices"), tensor(points, "triangles"))
    return SingleLayer(mesh, near_field=near_field)


def standardized(points: Artifact, column: int = 0) -> tuple[Tensor, float, float]:
    """The training values with mean 0 and variance 1, and the mean and deviation taken off."""
    values = column_of(points, "values", column)
    mean, deviation = float(values.mean()), float(values.std())
    return (values - mean) / (deviation or 1.0), mean, deviation or 1.0


def column_of(points: Artifact, name: str, column: int) -> Tensor:
    """One of several values, or the only one, shape (n,)."""
    found = tensor(points, name).double()
    return found.reshape(len(found), -1)[:, column].contiguous()


def in_words(kernel: Kernel) -> str:
    """A kernel for reading: its name, and its parameters to four digits."""
    parameters = {key: value for key, value in kernel.to_dict().items() if key != "name"}
    words = ", ".join(
        f"{key} {value:.4g}"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else f"{key} {value}"
        for key, value in parameters.items()
    )
    return f"{type(kernel).__name__}({words})"
