"""Kernels that a user's Python function defines."""

import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.hmatrix.kernels.base import Kernel

#: Number of points that a function is tried on before it is used, and largest accepted difference between two values of
#: one pair, relative to the largest value: distances from products of coordinates lose half of the digits.
TRIED, SAME = 16, 1e-6


@dataclass(frozen=True)
class Custom(Kernel):
    """Any function of two point tensors (..., m, d), (..., n, d) that returns the block (..., m, n).

    The kernel's properties have to be declared. The cautious defaults are right for every function, but lead to an LU
    factorization, the most expensive one. A real kernel that is positive definite is symmetric, too. A singular kernel
    has to give 0 between equal points.
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
            raise TypeError(f"function must be a function of two point tensors, not {self.function!r}")
        _say_symmetric(self)

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        return self.function(targets, sources)

    def to_dict(self) -> dict[str, Any]:
        """Raise ConfigError: a Python function cannot be written to a file."""
        raise ConfigError(
            "a custom kernel is a Python function and cannot be stored; put the function into a module and give "
            "kernels.Imported(path='module:function'), which can"
        )


@dataclass(frozen=True)
class Imported(Kernel):
    """A user's function given by its import path. Unlike `Custom`, this kernel can be stored.

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
        try:
            found = pkgutil.resolve_name(self.path)(targets, sources)
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:  # whatever a user's function does
            file, line = _place(error.__traceback__, self.path)
            text = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"kernel {self.path}: raised {type(error).__name__}{f' ({text})' if text else ''} in line "
                f"{line} of {Path(file).name}, {_called_with(targets, sources)}; correct the function"
            ) from error
        return _checked(found, self.path, targets, sources, self.is_complex)

    def require_usable(self, points: Tensor) -> None:
        """Try the function on a few points, as compression will call it.

        Args:
            points: Shape (n, d); the first few are used.

        Raises:
            ConfigError: If the function raises, does not return a block of finite numbers, or returns another block for
                points that come in batches; or if the kernel is declared symmetric and is not.
        """
        few = points[:TRIED]
        block, swapped = self.block(few, few[: TRIED // 2]), self.block(few[: TRIED // 2], few)
        batch = torch.stack([few, few.flip(0)])
        batched = self.block(batch, batch)
        if not block.isfinite().all() or not batched.isfinite().all():
            between = (
                "give 0 there, as kernels that are singular do"
                if self.singular
                else "a kernel that grows without bound there gives 0 instead, and says singular: true"
            )
            raise ConfigError(
                f"kernel {self.path}: returned NaN or infinity; wanted finite numbers, also between equal points "
                f"({between})"
            )
        whole = self.block(few, few)
        size = max(float(whole.abs().max()), float(block.abs().max()), torch.finfo(points.dtype).tiny)
        if float((batched[0] - whole).abs().max()) > SAME * size:
            raise ConfigError(
                f"kernel {self.path}: returned another block for the same points in a batch, of shape "
                f"{tuple(batch.shape)}, than alone; wanted k(x, y) of each pair of points, whatever comes beside them"
            )
        if self.symmetric and float((block - swapped.mT).abs().max()) > SAME * size:
            why = "positive_definite: true" if self.positive_definite else "symmetric: true"
            raise ConfigError(
                f"kernel {self.path}: k(x, y) and k(y, x) differ by {float((block - swapped.mT).abs().max()):.3g}, "
                f"though the study says {why}; leave that out, or correct the function"
            )


def _place(raised: TracebackType | None, path: str) -> tuple[str, int | None]:
    """Return the file and the line of the user's code in which an error was raised, without frames of libraries.

    Args:
        raised: The error's traceback.
        path: The function's import path. The user's code is the file of its module and the file that the function was
            written in. If the error passes through neither, the last frame is returned.
    """
    module, _, name = path.partition(":")
    there = sys.modules.get(module)
    function = inspect.unwrap(getattr(there, name, None))  # type: ignore[arg-type]
    own = (
        getattr(there, "__file__", None),
        getattr(getattr(function, "__code__", None), "co_filename", None),
    )
    frames = traceback.extract_tb(raised)
    last = next((frame for frame in reversed(frames) if frame.filename in own), frames[-1])
    return last.filename, last.lineno


def _called_with(targets: Tensor, sources: Tensor) -> str:
    return f"called with points of shapes {tuple(targets.shape)} and {tuple(sources.shape)}"


def _checked(found: Any, name: str, targets: Tensor, sources: Tensor, is_complex: bool) -> Tensor:
    """Return what a function returned, or raise ConfigError unless it is a block of the right shape and type."""
    batch = np.broadcast_shapes(targets.shape[:-2], sources.shape[:-2])
    shape = (*batch, targets.shape[-2], sources.shape[-2])
    what = ""
    if not isinstance(found, Tensor):
        what = "None" if found is None else f"a {type(found).__name__}"
    elif tuple(found.shape) != shape:
        what = f"a tensor of shape {tuple(found.shape)}"
    elif not (found.is_floating_point() or found.is_complex()):
        what = f"a tensor of {str(found.dtype).removeprefix('torch.')}"
    elif torch.finfo(found.dtype).bits < torch.finfo(targets.dtype).bits:
        what = f"a tensor of {str(found.dtype).removeprefix('torch.')}, less precise than the points"
    elif found.is_complex() and not is_complex:
        raise ConfigError(
            f"kernel {name}: returned complex numbers; say is_complex: true, or return their real part"
        )
    if what:
        wanted = str(targets.dtype.to_complex() if is_complex else targets.dtype).removeprefix("torch.")
        raise ConfigError(
            f"kernel {name}: returned {what}, {_called_with(targets, sources)}; wanted a tensor of shape {shape} and "
            f"type {wanted}"
        )
    block: Tensor = found.to(found.dtype.to_complex()) if is_complex and not found.is_complex() else found
    return block


def _say_symmetric(kernel: Custom | Imported) -> None:
    """Declare a real kernel symmetric if it is declared positive definite; samples need its Cholesky factor."""
    if kernel.positive_definite and not kernel.is_complex:
        object.__setattr__(kernel, "symmetric", True)
