"""A kernel of the user's own."""

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
    factorization, the dearest. A singular kernel has to give 0 between equal points.
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

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        return self.function(targets, sources)

    def to_dict(self) -> dict[str, Any]:
        """Raise ConfigError: a Python function cannot be written to a file."""
        raise ConfigError(
            "a custom kernel is a Python function and cannot be stored; give it a class in kernels.KERNELS"
        )
