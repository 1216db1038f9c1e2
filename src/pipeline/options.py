"""How a core states its options: once, as the fields of a frozen dataclass or the keyword arguments of a function.

Each option has a type with its bounds (`annotated-types`), perhaps a default, and a sentence under "Attributes" or
"Args" of the docstring. `require_bounds` refuses other values where an object is built in Python. `pipeline.config`
reads the same options to validate study files and to write `config/schema.json` and the comments of
`config/default.yaml`.
"""

import functools
import inspect
import math
import numbers
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt

# Wide bounds: squares and ratios of such numbers stay within double precision.
SMALLEST, LARGEST = 1e-100, 1e100
Positive = Annotated[float, Interval(ge=SMALLEST, le=LARGEST)]
NotNegative = Annotated[float, Interval(ge=0, le=LARGEST)]
Share = Annotated[float, Interval(gt=0, le=1)]
Decay = Annotated[float, Interval(ge=0, lt=1)]
Tolerance = Annotated[float, Interval(ge=1e-16, lt=1)]
Count = Annotated[int, Interval(ge=1, le=10**9)]
# NumPy's and torch's generators both take these.
Seed = Annotated[int, Interval(ge=0, lt=2**63)]


@dataclass(frozen=True)
class Option:
    """One option as a core states it.

    Attributes:
        hint: Type, with the bounds of the values.
        default: Value if none is given; `MISSING` if a value is required.
        description: The docstring's sentence about the option, or None.
    """

    name: str
    hint: Any
    default: Any
    description: str | None


def options_of(holder: Any) -> list[Option]:
    """Return the fields of a dataclass, or the keyword arguments of a function, as options."""
    if isinstance(holder, type) and is_dataclass(holder):
        texts, hints = descriptions(holder), type_hints(holder)
        defaults = {
            field.name: field.default if field.default_factory is MISSING else field.default_factory()
            for field in fields(holder)
        }
    else:
        texts, hints = (
            _section("Args", inspect.getdoc(holder) or ""),
            get_type_hints(holder, include_extras=True),
        )
        found = inspect.signature(holder).parameters
        defaults = {
            name: MISSING if one.default is one.empty else one.default
            for name, one in found.items()
            if one.kind is one.KEYWORD_ONLY
        }
    return [Option(name, hints[name], default, texts.get(name)) for name, default in defaults.items()]


def require_bounds(options: Any) -> None:
    """Check every field of a frozen dataclass against the bounds of its type.

    Raises:
        ValueError: If a field is out of bounds; the message names it, what it must be, and what it is.
    """
    for name, hint in _type_hints(type(options)).items():
        value = getattr(options, name)
        if wanted := _wanted(hint, value):
            raise ValueError(f"{type(options).__name__}: {name} {wanted}, not {value!r}")


def descriptions(options: type) -> dict[str, str]:
    """Return the texts under "Attributes" in the docstrings of a class and of its bases, by field."""
    found: dict[str, str] = {}
    for cls in reversed(options.__mro__):
        found |= _section("Attributes", inspect.cleandoc(cls.__doc__ or ""))
    return {field.name: found[field.name] for field in fields(options) if field.name in found}


def summary(options: Any) -> str:
    """Return the first line of the docstring of a class or a function."""
    return (options.__doc__ or "").strip().splitlines()[0]


def type_hints(options: type) -> dict[str, Any]:
    """Return the type of every field of a dataclass, with its bounds."""
    hints = get_type_hints(options, include_extras=True)
    return {field.name: hints[field.name] for field in fields(options)}


_type_hints: Callable[[type], dict[str, Any]] = functools.cache(type_hints)


def _section(title: str, docstring: str) -> dict[str, str]:
    """Parse a section of a docstring; a line that is indented further continues the previous entry."""
    section = re.search(rf"^{title}:\n((?:    .*\n?|\n)*)", docstring, re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _wanted(hint: Any, value: Any) -> str:
    """Return what a value must be, or "" for a value that fits its type and bounds."""
    if get_origin(hint) is Literal:
        return "" if value in get_args(hint) else f"must be one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is not Annotated:
        return ""
    kind, *bounds = get_args(hint)
    if kind is int and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
        return "must be a whole number"
    if kind not in (int, float):
        return ""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or math.isnan(value):
        return "must be a number"
    value = kind(value)  # NumPy's own numbers may have a smaller range than a bound
    found = [single for bound in bounds for single in (bound if isinstance(bound, Interval) else (bound,))]
    return "" if all(map(functools.partial(_holds, value), found)) else _in_words(found)


def _holds(value: Any, bound: Any) -> bool:
    match bound:
        case Ge(limit):
            return bool(value >= limit)
        case Gt(limit):
            return bool(value > limit)
        case Le(limit):
            return bool(value <= limit)
        case Lt(limit):
            return bool(value < limit)
    return True


def _in_words(bounds: list[Any]) -> str:
    """Write bounds as an interval, or in words if the lower bound is `SMALLEST`."""
    low: tuple[str, Any] = "(", -math.inf
    high: tuple[str, Any] = ")", math.inf
    for bound in bounds:
        match bound:
            case Ge(limit):
                low = "[", limit
            case Gt(limit):
                low = "(", limit
            case Le(limit):
                high = "]", limit
            case Lt(limit):
                high = ")", limit
    if low[1] == SMALLEST:
        return "must be positive" + (f" and at most {high[1]:g}" if high[1] < LARGEST else "")
    return f"must lie in {low[0]}{low[1]:g}, {high[1]:g}{high[0]}"
