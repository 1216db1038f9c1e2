"""The numbers of a kernel that a fit may change: found, read and replaced by name, as logarithms."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.hmatrix.gaussian_process.anchored import Anchored
from pipeline.hmatrix.kernels import Kernel, Product, Scaled, Sum

NUGGET = "nugget"
_SCALES = ("variance", "factor")
_SMOOTHNESS = "nu"  # moves the likelihood little and costs Bessel functions: free only on request


@dataclass(frozen=True)
class Parameter:
    """A positive number within a kernel.

    Attributes:
        name: Readable name, such as "length_scale", "length_scale[1]" or "terms[0].variance".
        path: Fields and indices that lead to it.
        scales_all: Whether the whole kernel is proportional to it.
        is_relative: Whether it is a variance without unit, within a factor of a product whose unit another factor has.
    """

    name: str
    path: tuple[str | int, ...]
    scales_all: bool = False
    is_relative: bool = False

    @property
    def field(self) -> str:
        """The name of the field that holds it, without an index."""
        return str(next(step for step in reversed(self.path) if isinstance(step, str)))

    @property
    def names(self) -> tuple[str, str, str]:
        """The names that refer to it: its name, that of the whole tuple if it is an entry of one, and its field."""
        return self.name, re.sub(r"\[\d+\]$", "", self.name), self.field


def free_parameters(
    kernel: Kernel, *, fixed: Iterable[str] = (), smoothness: bool = False
) -> tuple[Parameter, ...]:
    """Return the parameters that a fit may change: every positive number of the kernel except those in `fixed`.

    Each factor of a product has a scale: its variance, or that of a sum's first term. The product needs one of them,
    and the scales of its other factors stay as they are. The factor of a multiple also stays if its kernel has a scale.

    Args:
        kernel: Any kernel; sums, products and multiples are searched through.
        fixed: Names as `Parameter.name` has them; "length_scale" also stands for all its entries.
        smoothness: Let `nu` vary as well.

    Raises:
        ConfigError: If a name in `fixed` is none of the kernel's.
    """
    held = set(fixed) - {NUGGET}
    everything = _walk(kernel, (), "", frozenset(), scales_all=True).met
    unknown = held - {name for p in everything for name in p.names}
    if unknown:
        known = ", ".join(p.name for p in everything)
        raise ConfigError(f"fixed: the kernel has no parameter {sorted(unknown)[0]!r}; give one of {known}")
    found = _walk(kernel, (), "", frozenset(held), scales_all=True).free
    return tuple(p for p in found if smoothness or p.field != _SMOOTHNESS)


@dataclass(frozen=True)
class _Found:
    """The parameters of a kernel.

    Attributes:
        free: The parameters that may vary.
        met: All parameters, in the kernel's order.
        scale: A parameter that, alone or with others, can multiply the whole kernel by any number; None if none can.
    """

    free: tuple[Parameter, ...] = ()
    met: tuple[Parameter, ...] = ()
    scale: Parameter | None = None


def _walk(
    kernel: Kernel, path: tuple[str | int, ...], prefix: str, held: frozenset[str], *, scales_all: bool
) -> _Found:
    if isinstance(kernel, Sum | Product):
        inner = [
            _walk(
                term, (*path, "terms", number), f"{prefix}terms[{number}].", held,
                scales_all=scales_all and isinstance(kernel, Product),
            )
            for number, term in enumerate(kernel.terms)
        ]  # fmt: skip
        free = tuple(p for found in inner for p in found.free)
        met = tuple(p for found in inner for p in found.met)
        scales = [found.scale for found in inner]
        if isinstance(kernel, Sum):
            return _Found(free, met, None if None in scales else scales[0])
        # Scales of several factors would be the same direction. One that scales the product alone is the cheapest.
        some = [scale for scale in scales if scale is not None]
        kept = next((scale for scale in some if scale.scales_all), some[0] if some else None)
        chosen = [
            replace(p, is_relative=p.is_relative or (found.scale != kept and p.field in _SCALES))
            for found in inner
            for p in found.free
            if p == kept or p not in some
        ]
        return _Found(tuple(chosen), met, kept)
    if isinstance(kernel, Scaled):
        found = _walk(kernel.kernel, (*path, "kernel"), f"{prefix}kernel.", held, scales_all=scales_all)
        if not _is_positive(kernel.factor):
            return found
        factor = Parameter(f"{prefix}factor", (*path, "factor"), scales_all)
        met = (*found.met, factor)
        if found.scale is not None or not held.isdisjoint(factor.names):
            return replace(found, met=met)
        return _Found((*found.free, factor), met, factor)
    if isinstance(kernel, Anchored):
        return _walk(kernel.kernel, (*path, "kernel"), prefix, held, scales_all=scales_all)
    met = tuple(_numbers_of(kernel, path, prefix, scales_all=scales_all))
    free = tuple(p for p in met if held.isdisjoint(p.names))
    return _Found(free, met, next((p for p in free if p.field == "variance"), None))


def _numbers_of(
    kernel: Kernel, path: tuple[str | int, ...], prefix: str, *, scales_all: bool
) -> Iterator[Parameter]:
    for field in fields(kernel):
        value = getattr(kernel, field.name)
        if isinstance(value, tuple) and all(_is_positive(entry) for entry in value):
            for number in range(len(value)):
                yield Parameter(f"{prefix}{field.name}[{number}]", (*path, field.name, number))
        elif _is_positive(value):
            yield Parameter(
                f"{prefix}{field.name}", (*path, field.name), scales_all and field.name == "variance"
            )


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(value > 0)


def logarithms(kernel: Kernel, parameters: Sequence[Parameter]) -> NDArray[np.float64]:
    """Return the logarithms of a kernel's parameters, shape (parameters,)."""
    values = []
    for parameter in parameters:
        value: Any = kernel
        for step in parameter.path:
            value = value[step] if isinstance(step, int) else getattr(value, step)
        values.append(float(value))
    return np.log(np.array(values, dtype=np.float64))


def with_logarithms(kernel: Kernel, parameters: Sequence[Parameter], values: NDArray[np.float64]) -> Kernel:
    """Return the kernel with other parameters, given by their logarithms."""
    for parameter, value in zip(parameters, values, strict=True):
        kernel = _replaced(kernel, parameter.path, float(np.exp(value)))
    return kernel


def _replaced(value: Any, path: tuple[str | int, ...], number: float) -> Any:
    if not path:
        return number
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        return (*value[:step], _replaced(value[step], rest, number), *value[step + 1 :])
    return replace(value, **{step: _replaced(getattr(value, step), rest, number)})
