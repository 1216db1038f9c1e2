"""Checks of callers' arguments, with one clear sentence for each mistake."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.hmatrix.kernels.base import Kernel, Scaled, Sum, Swapped
from pipeline.runtime.words import shown

CPU = torch.device("cpu")
_FARTHEST = 1e150
_MOST_PARTS = 1 << 16
_MOST_ROWS = 1 << 48
Progress = Callable[[int, int], object]  # called with how many boxes of how many are done


def as_array(values: Any) -> NDArray[Any]:
    """Return an array, or a tensor of any type on any device, as a NumPy array; bfloat16 becomes float32.

    Raises:
        TypeError: If the array is masked, or the tensor requires a gradient.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError("a masked array has entries without a value: fill them, or leave their points out")
    if not isinstance(values, Tensor):
        return np.asarray(values)
    require_no_gradient(values)
    found = values.detach().cpu().resolve_conj().resolve_neg()
    return np.asarray((found.float() if found.dtype == torch.bfloat16 else found).numpy())


def require_no_gradient(values: Tensor) -> None:
    """Raise TypeError if the tensor requires a gradient, which would be lost."""
    if values.requires_grad and torch.is_grad_enabled():
        raise TypeError(
            "the argument requires a gradient, and this operation has none: only products and Factorization.solve do, "
            "for their vectors; pass x.detach()"
        )


def as_points(points: "NDArray[Any] | Tensor", what: str) -> NDArray[Any]:
    """Return points as a finite float array of shape (n, d)."""
    values = as_array(points)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"{what} must have shape (n, d) with d >= 1, not {values.shape}")
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{what} must be real numbers, not {values.dtype}")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ConfigError(
            f"{what}: point {bad[0]} has a coordinate that is NaN or infinite ({values[bad[0]]})"
        )
    if values.size and float(np.abs(values).max()) > _FARTHEST:
        raise ConfigError(
            f"{what}: a coordinate is beyond {_FARTHEST:.0e}, where squares overflow; scale them down"
        )
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def as_diagonal(diagonal: "complex | NDArray[Any] | Tensor | None", n: int) -> NDArray[Any] | None:
    """Return the diagonal term as an array of shape (n,), or None for zero."""
    if diagonal is None:
        return None
    values = as_array(diagonal)
    if values.dtype.kind not in "biufc":
        raise TypeError(f"diagonal must be numbers, not {shown(diagonal)}")
    if values.ndim > 1 or (values.ndim == 1 and len(values) != n):
        raise ValueError(f"diagonal must be a number or shape ({n},), not {values.shape}")
    if not np.isfinite(values).all():
        raise ConfigError("diagonal: an entry is NaN or infinite")
    if values.ndim == 0 and values == 0:
        return None
    wide = np.complex128 if values.dtype.kind == "c" else np.float64
    return np.ascontiguousarray(np.broadcast_to(values.astype(wide), (n,)))


def require_nugget(diagonal: NDArray[Any] | None) -> None:
    """Raise ConfigError if a covariance's diagonal term is negative anywhere."""
    if diagonal is not None and diagonal.dtype.kind == "f" and len(diagonal) and diagonal.min() < 0:
        raise ConfigError(
            f"diagonal: a nugget of {diagonal.min():g} would make a covariance indefinite; it must be >= 0 "
            "(use add_diagonal for a shift)"
        )


def require_kernel(kernel: object) -> None:
    """Raise TypeError unless `kernel` is a Kernel."""
    if not isinstance(kernel, Kernel):
        raise TypeError(
            f"kernel must be one of pipeline.hmatrix.kernels, such as Matern(length_scale=0.1), or Custom(function), "
            f"not {shown(kernel)}"
        )


def require_block(kernel: Kernel, points: Tensor) -> None:
    """Raise unless a user's kernel gives, at some points, blocks with the shape and properties that it declares."""
    block, n = kernel(points, points), len(points)
    if not isinstance(block, Tensor):
        raise TypeError(f"the kernel must return a tensor, and gave {type(block).__name__}")
    if block.shape != (n, n):
        raise ValueError(
            f"the kernel gave shape {tuple(block.shape)} where {(n, n)} was wanted: for points (..., m, d) and "
            "(..., n, d) it has to return the block (..., m, n)"
        )
    if block.is_complex() and not kernel.is_complex:
        raise ValueError("the kernel gives complex numbers: say so, as in Custom(function, is_complex=True)")
    if block.device.type == "meta":
        return
    for term in _singular_terms(kernel):
        own = term(points, points).diagonal()
        if bool((own != 0).any()):
            raise ValueError(
                f"the kernel says that it is singular, but gives {own[0].item():.3g} between equal points; "
                "let it give 0 there, as torch.where(r > 0, 1 / r, 0.0) does, and pass the true value as diagonal="
            )
    if kernel.symmetric:
        scale, difference = (values.abs().nan_to_num().amax() for values in (block, block - block.mT))
        if difference > 1e-6 * scale:
            raise ValueError(
                "the kernel says that it is symmetric, but k(x, y) differs from k(y, x); leave out symmetric=True"
            )


def _singular_terms(kernel: Kernel) -> list[Kernel]:
    """Return the singular terms of a kernel; its other terms may have any value between equal points."""
    if isinstance(kernel, Scaled | Swapped):
        return _singular_terms(kernel.kernel)
    if isinstance(kernel, Sum):
        return [part for term in kernel.terms for part in _singular_terms(term)]
    return [kernel] if kernel.singular else []


def require_count(number: int, what: str) -> None:
    """Raise TypeError or ValueError unless `number` is a whole number of at least 1."""
    if not isinstance(number, int | np.integer) or isinstance(number, bool):
        raise TypeError(f"{what} must be a whole number, not {shown(number)}")
    if number < 1:
        raise ValueError(f"{what} must be at least 1, not {number}")


def require_parts(parts: int | None) -> None:
    """Raise TypeError or ValueError unless a matrix can be divided into `parts` parts; None passes."""
    if parts is None:
        return
    require_count(parts, "parts")
    if parts > _MOST_PARTS:
        raise ValueError(
            f"parts must be at most {_MOST_PARTS:,}, not {parts:,}; as many as there are threads do best"
        )


def require_progress(progress: Progress | None) -> None:
    """Raise TypeError unless `progress` is None or callable."""
    if progress is not None and not callable(progress):
        raise TypeError(
            f"progress must be a function of two numbers, boxes done and boxes in all, not {shown(progress)}"
        )


def require_seed(seed: int) -> None:
    """Raise ValueError unless `seed` is a whole number of at least 0."""
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0 on, not {shown(seed)}")


def require_draws(generator: object, n_samples: int | None) -> None:
    """Raise TypeError or ValueError unless `generator` can draw `n_samples`; None stands for one vector."""
    if not isinstance(generator, torch.Generator | np.random.Generator):
        raise TypeError(
            "sample needs a generator, such as torch.Generator().manual_seed(0) or numpy.random.default_rng(0), not "
            f"{shown(generator)}"
        )
    if n_samples is not None and (
        not isinstance(n_samples, int | np.integer) or isinstance(n_samples, bool) or n_samples < 0
    ):
        raise ValueError(f"n_samples must be a whole number from 0 on, not {shown(n_samples)}")


def require_rows(n_own_rows: int) -> None:
    """Raise TypeError or ValueError unless a process can have `n_own_rows` rows."""
    if not isinstance(n_own_rows, int | np.integer):
        raise TypeError(f"n_own_rows must be a whole number, not {shown(n_own_rows)}")
    if n_own_rows < 0:
        raise ValueError(f"n_own_rows must not be negative, and is {n_own_rows}")
    if n_own_rows > _MOST_ROWS:
        raise ValueError(f"n_own_rows is {n_own_rows}, more rows than any matrix has")


def described(kernel: Kernel) -> object:
    """Return what tells whether two processes have the same kernel: its dictionary, or its type if it has none."""
    try:
        return kernel.to_dict()
    except ConfigError:
        return type(kernel).__name__


def require_tolerance(tolerance: float) -> None:
    """Raise unless a tolerance lies strictly between 0 and 1."""
    if not isinstance(tolerance, int | float | np.number) or isinstance(tolerance, complex):
        raise TypeError(f"tolerance must be a number between 0 and 1, such as 1e-6, not {shown(tolerance)}")
    if not 0 < tolerance < 1:
        raise ConfigError(f"tolerance must lie between 0 and 1, not {tolerance:g}")


def dtype_of(values: NDArray[Any], *, is_complex: bool) -> np.dtype[Any]:
    """Return the matrix's type: as precise as its points."""
    if values.dtype == np.float32:
        return np.dtype(np.complex64 if is_complex else np.float32)
    return np.dtype(np.complex128 if is_complex else np.float64)


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Return torch's name of a NumPy type."""
    return torch.from_numpy(np.zeros(0, dtype)).dtype


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """Return NumPy's name of a torch type; that of bfloat16, which NumPy does not know, is float32."""
    return np.dtype(np.float32) if dtype == torch.bfloat16 else np.dtype(str(dtype).removeprefix("torch."))
