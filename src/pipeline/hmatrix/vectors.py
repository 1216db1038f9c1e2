"""Vectors between the caller's order and type and the tree's: NumPy array or tensor, (n,) or (n, m)."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.hmatrix.inputs import as_array, numpy_dtype, require_no_gradient, torch_dtype

Vectors = TypeVar("Vectors", NDArray[Any], Tensor)

Permutation = NDArray[np.int64]

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")

_AT_A_TIME = 64  # vectors: enough for products of matrices to run at full speed, few enough for a cache


def result_type(matrix: np.dtype[Any], given: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of a product: complex if either is, and as precise as the less precise of the two floats.

    Integers count as exact.
    """
    if given.kind not in "fc":
        return matrix
    single = np.dtype("complex64")
    narrow = np.can_cast(matrix, single) or np.can_cast(given, single)
    is_complex = "c" in (matrix.kind, given.kind)
    names = {
        (False, False): "float64",
        (False, True): "float32",
        (True, False): "complex128",
        (True, True): "complex64",
    }
    return np.dtype(names[is_complex, narrow])


def plain_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which torch accepts numbers: in native byte order, and no wider than double precision."""
    if dtype.kind in "fc" and dtype.itemsize > (8 if dtype.kind == "f" else 16):
        return np.dtype(np.float64 if dtype.kind == "f" else np.complex128)
    return dtype.newbyteorder("=")


def to_tensor(x: NDArray[Any]) -> Tensor:
    """Copy an array of any number type and strides into a tensor; integers and booleans become float64."""
    values = np.asarray(x)
    return torch.from_numpy(
        np.array(values, dtype=result_type(np.dtype(np.float64), values.dtype), order="C")
    )


def arrays_as_tensors(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Let a function of tensors take NumPy arrays: it then returns arrays where it returned tensors.

    A call with arrays and tensors returns tensors.
    """

    @wraps(function)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        given: list[Any] = [*args, *kwargs.values()]
        as_arrays = any(isinstance(value, np.ndarray) for value in given)
        as_arrays &= not any(isinstance(value, Tensor) for value in given)
        inner: Any = function
        positional = [_as_tensor(value) for value in args]
        found = inner(*positional, **{name: _as_tensor(value) for name, value in kwargs.items()})
        result: Returned = _as_array(found) if as_arrays else found
        return result

    return wrapped


def _as_tensor(value: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def _as_array(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_as_array, value))
    return value.numpy() if isinstance(value, Tensor) else value


def apply(
    x: Vectors,
    action: Callable[[NDArray[Any], int], NDArray[Any]],
    *,
    taken: Permutation,
    given: Permutation,
    computed: np.dtype[Any],
    dtype: np.dtype[Any],
    what: str,
) -> Vectors:
    """Run a native action on vectors.

    Args:
        x: Shape (n,) or (n, m).
        action: Takes flat row-major vectors in tree order and their number, and returns flat row-major vectors.
        taken: Place i of the tree order is row taken[i] of x.
        given: Place i of the tree order is row given[i] of the result.
        computed: Type that the action works in; a complex x goes through a real action as two real ones.
        dtype: The matrix's type, which together with x's type determines the result's.
        what: Name of the operation in error texts.
    """
    values = as_array(x)
    if values.dtype.kind not in "biufc":
        raise TypeError(
            f"{what} needs numbers in an array or a tensor, not {type(x).__name__} of {values.dtype}"
        )
    if values.ndim not in (1, 2) or len(values) != len(taken):
        raise ValueError(f"{what} needs shape ({len(taken)},) or ({len(taken)}, m), not {values.shape}")
    columns = values if values.ndim == 2 else values[:, None]
    if values.dtype.kind == "c" and computed.kind != "c":
        parts = np.concatenate([columns.real, columns.imag], axis=1)
        both = _run(parts, action, taken, given, computed)
        result = both[:, : columns.shape[1]] + 1j * both[:, columns.shape[1] :]
    else:
        result = _run(columns, action, taken, given, computed)
    result = result.reshape(len(given), *values.shape[1:])
    result = result.astype(result_type(dtype, values.dtype), copy=False)
    return torch.from_numpy(result).to(x.device) if isinstance(x, Tensor) else result


def apply_on_device(
    x: Tensor,
    action: Callable[[Tensor], Tensor],
    *,
    taken: Tensor,
    given: Tensor,
    computed: torch.dtype,
    dtype: np.dtype[Any],
    what: str,
) -> Tensor:
    """Do what `apply` does to tensors where they are: `action` takes and returns (n, m) in tree order."""
    if x.ndim not in (1, 2) or len(x) != len(taken):
        raise ValueError(f"{what} needs shape ({len(taken)},) or ({len(taken)}, m), not {tuple(x.shape)}")
    require_no_gradient(x)
    values = x.detach()
    columns = values if values.ndim == 2 else values[:, None]
    split = x.is_complex() and not computed.is_complex
    if split:
        columns = torch.cat([columns.real, columns.imag], dim=1)
    found = action(columns.to(computed)[taken])
    result = torch.empty_like(found)
    result[given] = found
    if split:
        result = torch.complex(*result.chunk(2, dim=1)) if result.shape[1] else result
    return result.reshape(len(given), *x.shape[1:]).to(torch_dtype(result_type(dtype, numpy_dtype(x.dtype))))


def _run(
    columns: NDArray[Any],
    action: Callable[[NDArray[Any], int], NDArray[Any]],
    taken: Permutation,
    given: Permutation,
    computed: np.dtype[Any],
) -> NDArray[Any]:
    result = np.empty((len(given), columns.shape[1]), dtype=computed)
    for start in range(0, columns.shape[1], _AT_A_TIME):
        part = columns[:, start : start + _AT_A_TIME]
        m = part.shape[1]
        flat = np.ascontiguousarray(part[taken], dtype=computed).reshape(-1)
        result[given, start : start + m] = action(flat, m).reshape(len(given), m)
    return result
