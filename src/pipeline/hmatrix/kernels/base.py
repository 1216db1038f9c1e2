"""What a kernel is, and the algebra of kernels.

A kernel is a frozen value `k` with `k(targets, sources)`: points of shapes (..., m, d) and (..., n, d) give
the block of shape (..., m, n), tensors a tensor and NumPy arrays an array. Device and precision follow the
points. Sums, products and scalar multiples of kernels are kernels.
"""

import json
import math
import sys
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.hmatrix.kernels.distances import LengthScale
from pipeline.runtime.words import shown

Points = TypeVar("Points", NDArray[Any], Tensor)
_NUMBERS = int | float | complex | np.number

#: Kernels that files and studies know by name. A user's kernels are stored with the path of their class.
KERNELS: dict[str, type["Kernel"]] = {}


@dataclass(frozen=True)
class Kernel:
    """A function k(x, y) of two points, evaluated on whole blocks.

    Attributes:
        name: Name under which the kernel is registered and stored.
        symmetric: Whether k(x, y) = k(y, x).
        positive_definite: Whether the integral operator is positive definite. The matrix is then positive definite too,
            given the diagonal that belongs to it, and a Cholesky factorization is tried first.
        is_complex: Whether blocks are complex.
        conditional_degree: Degree of the polynomials to which coefficients must be orthogonal for the kernel to be
            positive definite; -1 for other kernels.
        singular: Whether k(x, y) grows without bound as y approaches x; k(x, x) is then given as 0.
    """

    name: ClassVar[str] = ""
    symmetric: ClassVar[bool] = True
    positive_definite: ClassVar[bool] = False
    is_complex: ClassVar[bool] = False
    singular: ClassVar[bool] = False
    conditional_degree: ClassVar[int] = -1

    # Makes NumPy's numbers leave their products with a kernel to this class.
    __array_ufunc__: ClassVar[None] = None

    def __call__(self, targets: Points, sources: Points) -> Points:
        """Return the block k(targets, sources) of shape (..., m, n): a tensor for tensors, an array for arrays."""
        if isinstance(targets, Tensor) and isinstance(sources, Tensor):
            return self.block(targets, sources)
        if isinstance(targets, Tensor) or isinstance(sources, Tensor):
            raise TypeError("the points of a kernel must be two tensors or two arrays, not one of each")
        return self.block(_as_tensor(targets), _as_tensor(sources)).numpy()

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        """Return the block k(targets, sources) of shape (..., m, n) for two tensors. Every kernel defines this."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to evaluate a block")

    def diagonal(self, points: Points) -> Points:
        """Return k(x, x) for points of shape (..., n, d), as shape (..., n)."""
        return self(points[..., None, :], points[..., None, :])[..., 0, 0]

    def to_dict(self) -> dict[str, Any]:
        """Return name and parameters in a form that JSON can hold.

        Raises:
            ConfigError: If a user's kernel could not be rebuilt from them.
        """
        parameters = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        if KERNELS.get(self.name) is type(self):
            return {"name": self.name} | parameters
        return _of_its_own_class(self, parameters)

    def __add__(self, other: "Kernel") -> "Kernel":
        if not isinstance(other, Kernel):
            return NotImplemented
        return Sum((self, other))

    def __radd__(self, other: object) -> "Kernel":
        """Return the kernel itself as 0 + k, so that `sum` takes kernels."""
        return self if isinstance(other, _NUMBERS) and other == 0 else NotImplemented

    def __mul__(self, other: "Kernel | complex") -> "Kernel":
        if isinstance(other, Kernel):
            return Product((self, other))
        return Scaled(self, other) if isinstance(other, _NUMBERS) else NotImplemented

    def __rmul__(self, other: complex) -> "Kernel":
        return self * other

    def __truediv__(self, divisor: complex) -> "Kernel":
        return self * (1 / divisor) if isinstance(divisor, _NUMBERS) else NotImplemented

    def __neg__(self) -> "Kernel":
        return -1.0 * self

    def __sub__(self, other: "Kernel") -> "Kernel":
        return self + (-1.0) * other


@dataclass(frozen=True)
class _Combination(Kernel):
    """A combination of several kernels."""

    terms: tuple[Kernel, ...]

    @property
    def symmetric(self) -> bool:  # type: ignore[override]
        return all(term.symmetric for term in self.terms)

    @property
    def positive_definite(self) -> bool:  # type: ignore[override]
        # Sums of positive definite matrices are positive definite, and so are elementwise products by Schur's theorem.
        return all(term.positive_definite for term in self.terms)

    @property
    def is_complex(self) -> bool:  # type: ignore[override]
        return any(term.is_complex for term in self.terms)

    @property
    def singular(self) -> bool:  # type: ignore[override]
        return any(term.singular for term in self.terms)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "terms": [term.to_dict() for term in self.terms]}


@dataclass(frozen=True)
class Sum(_Combination):
    """The sum of kernels."""

    name: ClassVar[str] = "sum"

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        total = self.terms[0](targets, sources)
        for term in self.terms[1:]:
            total = total + term(targets, sources)
        return total


@dataclass(frozen=True)
class Product(_Combination):
    """The product of kernels, entry by entry."""

    name: ClassVar[str] = "product"

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        product = self.terms[0](targets, sources)
        for term in self.terms[1:]:
            product = product * term(targets, sources)
        return product


@dataclass(frozen=True)
class Scaled(Kernel):
    """A kernel times a number."""

    name: ClassVar[str] = "scaled"
    kernel: Kernel
    factor: complex

    def __post_init__(self) -> None:
        factor: Any = self.factor
        if isinstance(factor, np.number):
            object.__setattr__(self, "factor", factor.item())
        if not np.isfinite(factor):
            raise ValueError(f"a kernel can be multiplied by finite factors, not {factor}")

    @property
    def symmetric(self) -> bool:  # type: ignore[override]
        return self.kernel.symmetric

    @property
    def positive_definite(self) -> bool:  # type: ignore[override]
        return self.kernel.positive_definite and self.factor.imag == 0 and self.factor.real > 0

    @property
    def is_complex(self) -> bool:  # type: ignore[override]
        return self.kernel.is_complex or isinstance(self.factor, complex)

    @property
    def singular(self) -> bool:  # type: ignore[override]
        return self.kernel.singular

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        return self.factor * self.kernel(targets, sources)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "kernel": self.kernel.to_dict(), "factor": _plain(self.factor)}


@dataclass(frozen=True)
class Swapped(Kernel):
    """k(y, x) for a kernel k that need not be symmetric."""

    name: ClassVar[str] = "swapped"
    kernel: Kernel

    @property
    def symmetric(self) -> bool:  # type: ignore[override]
        return self.kernel.symmetric

    @property
    def is_complex(self) -> bool:  # type: ignore[override]
        return self.kernel.is_complex

    @property
    def singular(self) -> bool:  # type: ignore[override]
        return self.kernel.singular

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "kernel": self.kernel.to_dict()}

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        return self.kernel(sources, targets).mT


def of_class(path: str, parameters: dict[str, Any]) -> Kernel:
    """Build a kernel of a user's class from its import path; the module must be imported already.

    A file that names a class is data: it imports nothing, and calls nothing but the class of a kernel.

    Raises:
        ConfigError: If the module is not imported, has no such class, or the class does not take these parameters.
    """
    module, _, name = str(path).partition(":")
    if module not in sys.modules:
        raise ConfigError(
            f"kernel: {path} is a class of your own, whose module is not imported; import {module} before you load this"
        )
    kind: Any = sys.modules[module]
    for part in name.split("."):
        kind = getattr(kind, part, None)
    if not (isinstance(kind, type) and issubclass(kind, Kernel)):
        raise ConfigError(f"kernel: {path} is not a class of kernels; name one")
    try:
        return kind(**{name: _typed(value) for name, value in parameters.items()})
    except Exception as error:  # whatever a class does when it is called
        raise ConfigError(f"kernel: {path} cannot be made ({' '.join(str(error).split())})") from None


def _of_its_own_class(kernel: Kernel, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the description from which `of_class` rebuilds a user's kernel, after trying that it does."""
    kind = type(kernel)
    path = f"{kind.__module__}:{kind.__qualname__}"
    where = "the program that runs" if kind.__module__ == "__main__" else "a function"
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise ConfigError(
            f"kernel {kind.__qualname__} cannot be stored: its class is written in {where}, where other programs do "
            "not find it; move it into a module of its own"
        )
    made_by = next(base for base in kind.__mro__ if "__init__" in vars(base))
    try:
        same = "__dataclass_fields__" in vars(made_by) and kernel == of_class(
            path, json.loads(json.dumps(parameters))
        )
    except (ConfigError, TypeError, ValueError):
        same = False
    if not same:
        raise ConfigError(
            f"kernel {path} cannot be stored: its parameters do not make the same kernel again; wanted a frozen "
            "dataclass with fields that are numbers, texts or tuples of these"
        )
    return {"name": kernel.name, "class": path, "parameters": parameters}


def _as_tensor(points: NDArray[Any]) -> Tensor:
    """Return an array of points as a tensor; integers become float64."""
    values = np.asarray(points)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"a kernel needs points of real numbers, not of {values.dtype}")
    return torch.from_numpy(values if values.dtype.kind == "f" else values.astype(np.float64))


def require_positive(**parameters: LengthScale) -> None:
    """Raise ValueError unless every parameter, and every entry of a tuple, is a finite number above 0."""
    for name, value in parameters.items():
        if np.size(value) == 0:
            raise ValueError(f"{name} must be a number, or one for each coordinate, not an empty list")
        for entry in value if isinstance(value, tuple) else (value,):
            if not isinstance(entry, int | float | np.number):
                raise TypeError(f"{name} must be a positive number, not {shown(entry)}")
            if not (math.isfinite(entry) and entry > 0):
                raise ValueError(f"{name} must be positive and finite, not {value}")


def _plain(value: Any) -> Any:
    """Return a field as JSON can hold it: a complex number as {"real": a, "imag": b}, a tuple as a list."""
    if isinstance(value, np.number):
        value = value.item()
    if isinstance(value, complex):
        return {"real": value.real, "imag": value.imag}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _typed(value: Any) -> Any:
    """Return the value that `_plain` wrote."""
    if isinstance(value, dict) and value.keys() == {"real", "imag"}:
        return complex(value["real"], value["imag"])
    return tuple(map(_typed, value)) if isinstance(value, list) else value
