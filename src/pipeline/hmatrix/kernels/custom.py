"""A kernel of the user's own."""

import pkgutil
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.hmatrix.kernels.base import Kernel


@dataclass(frozen=True)
class Custom(Kernel):
    """Any function of two point tensors (..., m, d), (..., n, d) that returns the block (..., m, n).

    What it is, it must say itself. The cautious defaults are right for every function, and lead to an LU
    factorization, the dearest. A real kernel that is positive definite is symmetric, too. A singular kernel has to give
    0 between equal points.
    """

    name: ClassVar[str] = "custom"
    function: Callable[[Tensor, Tensor], Tensor]
    _: KW_ONLY
    symmetric: bool = False  # type: ignore[misc]
    positive_definite: bool = False  # type: ignore[misc]
    is_complex: bool = False  # type: ignore[misc]
    singular: bool = False  # type: ignore[misc]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function wants a function of two point tensors, not {self.function!r}")
        _say_symmetric(self)

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        return self.function(targets, sources)

    def to_dict(self) -> dict[str, Any]:
        """Raise ConfigError: a Python function cannot be written to a file."""
        raise ConfigError(
            "a custom kernel is a Python function and cannot be stored; give it a class in kernels.KERNELS"
        )


@dataclass(frozen=True)
class Imported(Kernel):
    """A function of one's own by its import path, as `Custom`; this one can be stored.

    Attributes:
        path: The function, as package.module:name. It is called with two point tensors (..., m, d) and (..., n, d) and
            returns the block (..., m, n).
        symmetric: Whether k(x, y) = k(y, x).
        positive_definite: Whether matrices of the kernel are positive definite, given their diagonal; real ones
            are then symmetric too.
        is_complex: Whether blocks are complex.
        singular: Whether k(x, y) grows without bound as y approaches x; the function then gives 0 between equal points.
    """

    name: ClassVar[str] = "imported"
    path: str
    _: KW_ONLY
    symmetric: bool = False  # type: ignore[misc]
    positive_definite: bool = False  # type: ignore[misc]
    is_complex: bool = False  # type: ignore[misc]
    singular: bool = False  # type: ignore[misc]

    def __post_init__(self) -> None:
        if self.path.count(":") != 1:
            raise ValueError(
                f"path must be a module and a name in it, such as mypackage.kernels:bump, not {self.path!r}"
            )
        try:
            function = pkgutil.resolve_name(self.path)
        except (Exception, SystemExit) as error:  # whatever a module does when it is imported
            ends = isinstance(error, SystemExit)
            reason = "it ends the program" if ends else " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"path {self.path!r} cannot be imported ({reason}); start where its package is, or install it"
            ) from None
        if not callable(function):
            raise ValueError(f"path {self.path!r} is no function, but {type(function).__name__}")
        _say_symmetric(self)

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        return pkgutil.resolve_name(self.path)(targets, sources)  # type: ignore[no-any-return]


def _say_symmetric(kernel: Custom | Imported) -> None:
    """Let a real kernel that is said to be positive definite be symmetric; samples need its Cholesky factor."""
    if kernel.positive_definite and not kernel.is_complex:
        object.__setattr__(kernel, "symmetric", True)
