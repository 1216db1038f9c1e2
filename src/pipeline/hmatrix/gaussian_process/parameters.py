"""The numbers of a kernel that a fit may change: found, read and replaced by name, as logarithms."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.hmatrix.gaussian_process.anchored import Anchored
from pipeline.hmatrix.kernels import Kernel, Product, Scaled, Sum

NUGGET = "nugget"
_SMOOTHNESS = "nu"  # moves the likelihood little and costs Bessel functions: free only where it is asked for


@dataclass(frozen=True)
class Parameter:
    """A positive number within a kernel.

    Attributes:
        name: Name to a person: "length_scale", "length_scale[1]", "terms[0].variance".
        path: Fields and indices that lead to it.
        scales_all: The whole kernel is proportional to it.
    """

    name: str
    path: tuple[str | int, ...]
    scales_all: bool = False

    @property
    def field(self) -> str:
        """The name of the field that holds it, without an index."""
        return str(next(step for step in reversed(self.path) if isinstance(step, str)))


def free_parameters(
    kernel: Kernel, *, fixed: Iterable[str] = (), smoothness: bool = False
) -> tuple[Parameter, ...]:
    """Return the parameters that a fit may change: every positive number of the kernel but what is `fixed`.

    A product has one variance: those of its other factors stay as they are. So does the factor of a multiple.

    Args:
        kernel: Any kernel; sums, products and multiples are searched through.
        fixed: Names as `Parameter.name` has them; "length_scale" also stands for all its entries.
        smoothness: Let `nu` vary as well.

    Raises:
        ConfigError: If a name in `fixed` is none of the kernel's.
    """
    found = tuple(_walk(kernel, (), "", scales_all=True))
    if not smoothness:
        found = tuple(parameter for parameter in found if parameter.field != _SMOOTHNESS)
    fixed = set(fixed) - {NUGGET}
    unknown = fixed - {name for p in found for name in (p.name, p.name.split("[")[0], p.field)}
    if unknown:
        raise ConfigError(
            f"fixed: no {sorted(unknown)[0]!r}; the kernel's parameters are {', '.join(p.name for p in found)}"
        )
    return tuple(p for p in found if not {p.name, p.name.rsplit("[", 1)[0], p.field} & fixed)


def _walk(
    kernel: Kernel, path: tuple[str | int, ...], prefix: str, *, scales_all: bool
) -> Iterator[Parameter]:
    if isinstance(kernel, Sum | Product):
        linear = scales_all and isinstance(kernel, Product)
        has_variance = False
        for number, term in enumerate(kernel.terms):
            inner = list(
                _walk(term, (*path, "terms", number), f"{prefix}terms[{number}].", scales_all=linear)
            )
            for parameter in inner:
                # Factors of a product share one variance: more of them would be the same direction.
                if isinstance(kernel, Product) and parameter.field == "variance":
                    if has_variance:
                        continue
                    has_variance = True
                yield parameter
        return
    if isinstance(kernel, Scaled):
        inner = list(_walk(kernel.kernel, (*path, "kernel"), f"{prefix}kernel.", scales_all=scales_all))
        yield from inner
        if not any(p.field == "variance" for p in inner) and _is_positive(kernel.factor):
            yield Parameter(f"{prefix}factor", (*path, "factor"), scales_all)
        return
    if isinstance(kernel, Anchored):
        yield from _walk(kernel.kernel, (*path, "kernel"), prefix, scales_all=scales_all)
        return
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
