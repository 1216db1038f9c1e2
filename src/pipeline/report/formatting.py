"""Numbers for readers: SI units, thousands separators, no more digits than are known.

Every function takes any value that JSON may hold and returns a dash for ``None``, NaN and infinity.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Concatenate, ParamSpec, TypeGuard

import numpy as np

from pipeline.runtime.words import counted

DASH = "–"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"
P = ParamSpec("P")


class NumberText(str):
    """A number as text that keeps its value; tables sort, compare and copy by the value."""

    value: float | None

    def __new__(cls, text: str, value: object) -> "NumberText":
        number = super().__new__(cls, text)
        number.value = float(value) if is_number(value) else None
        return number


def _number_text(write: Callable[Concatenate[float, P], str]) -> Callable[Concatenate[object, P], NumberText]:
    """Make a function that writes a finite number take any value, and return a `NumberText`."""

    def written(value: object, /, *args: P.args, **kwargs: P.kwargs) -> NumberText:
        return NumberText(write(value, *args, **kwargs) if is_number(value) else DASH, value)

    functools.update_wrapper(written, write)
    return written


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite real number (``bool`` is not)."""
    return (
        isinstance(value, int | float | np.integer | np.floating)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


@_number_text
def count(value: float) -> str:
    """An integer with thousands separators: 28,298."""
    return f"{value:,.0f}".replace("-", "−")


@_number_text
def decimal(value: float, decimals: int) -> str:
    """A number with a fixed number of decimals, and a true minus sign."""
    text = f"{value:,.{max(decimals, 0)}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) != 0 else text.lstrip("-")


@_number_text
def significant(value: float, digits: int = 2) -> str:
    """A number to so many significant digits: 0.0123, 1.2, 120; outside 10^-3..10^6 as a power of ten."""
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if not -3 <= magnitude < 6:
        return scientific(value, digits)
    return decimal(round(value, digits - 1 - magnitude), digits - 1 - magnitude)


def told_apart(*values: float, digits: int = 3) -> int:
    """Significant digits, from ``digits`` to nine, with which different values print differently."""
    known = set(values)
    while digits < 9 and len({significant(value, digits) for value in known}) < len(known):
        digits += 1
    return digits


@_number_text
def scientific(value: float, digits: int = 2) -> str:
    """A number as a power of ten: 3.2 × 10⁻⁷."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = f"10{superscript(str(int(exponent)))}"
    mantissa = mantissa.replace("-", "−")
    return power if mantissa == "1" else f"{mantissa}{NO_BREAK_SPACE}×{NO_BREAK_SPACE}{power}"


def superscript(text: str) -> str:
    """Raise digits where there is no markup; the point becomes a middle dot: ¹·⁰²."""
    return text.replace("−", "-").replace(".", "·").translate(_SUPERSCRIPT)


@_number_text
def setting(value: float) -> str:
    """A number that somebody chose, as short as it can be and still exact: 0.05, 10⁻⁶, 2.5 × 10⁻⁴."""
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:g}".replace("-", "−")
    digits = len(f"{value:.15g}".split("e")[0].replace("-", "").replace(".", "").strip("0"))
    return scientific(value, max(digits, 1))


def scaled(
    value: float, units: Sequence[tuple[float, str]], digits: int = 3, like: float | None = None
) -> str:
    """A number in the largest unit that it, or ``like``, reaches; ``units`` are (size, name), largest first."""
    largest = value if like is None else like
    # Compare what will be printed, so that 999.96 kB does not print as 1,000 kB.
    reached = (unit for unit in units if abs(float(f"{largest / unit[0]:.{digits - 1}e}")) >= 1)
    size, name = next(reached, units[-1])
    return f"{significant(value / size, digits)}{NO_BREAK_SPACE}{name}"


@_number_text
def n_bytes(value: float, digits: int = 3) -> str:
    """A size in decimal units: 6.41 GB."""
    return scaled(value, ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")), digits)


@_number_text
def seconds(value: float, digits: int = 3, like: float | None = None) -> str:
    """A time in its unit, or in that of the time ``like``: 137 µs, 4.31 s, 12.5 min."""
    largest = abs(value if like is None else like)
    if largest == 0:
        return f"0{NO_BREAK_SPACE}s"
    if 100.0 <= largest < 3600.0:
        return f"{significant(value / 60.0, digits)}{NO_BREAK_SPACE}min"
    units = ((3600.0, "h"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
    return scaled(value, units, digits, largest)


@_number_text
def joules(value: float) -> str:
    """An energy: 2.41 kJ."""
    return scaled(value, ((1e6, "MJ"), (1e3, "kJ"), (1.0, "J")))


@_number_text
def flops(value: float) -> str:
    """A number of floating-point operations: 75.5 MFLOP."""
    if value == 0:
        return "0"
    return scaled(value, ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"), (1.0, "FLOP")))


def instant(value: object) -> str:
    """An ISO date, with its time if it has one: 23 Nov 2026, 01:01 UTC; any other text as it is."""
    text = str(value)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = ""
    if moment.tzinfo is not None:
        moment, zone = moment.astimezone(UTC), " UTC"
    day = f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}"
    return f"{day}, {moment:%H:%M}{zone}" if len(text) > len("2026-11-23") else day


@_number_text
def percent(fraction: float, decimals: int = 1) -> str:
    """A fraction as a percentage: 86.7 %."""
    return with_percent(fraction * 100, decimals)


@_number_text
def with_percent(value: float, decimals: int) -> str:
    """A number that is in percent already: 86.7 %."""
    return f"{decimal(value, decimals)}{NO_BREAK_SPACE}%"


@_number_text
def relative(error: float) -> str:
    """A relative error as a percentage, to two digits: 0.034 %."""
    return f"{significant(error * 100)}{NO_BREAK_SPACE}%"


@_number_text
def times(ratio: float) -> str:
    """A ratio as a factor: 16×, 2.1×, 0.97×, 0.038×."""
    if ratio >= 10:
        return f"{count(ratio)}×"
    if 0 < ratio < 0.0995:
        return f"{significant(ratio)}×"
    return f"{decimal(ratio, 2 if ratio < 1.995 else 1)}×"


def plural(number: float, noun: str, several: str = "") -> str:
    """A count, or a mean of counts, with its noun after a non-breaking space: 1 seed, 2 seeds."""
    return counted(round(number), noun, several).replace(" ", NO_BREAK_SPACE, 1)


def first_digit(value: float, decimals: int) -> int:
    """Decimals with which a number does not print as zero: ``decimals``, or more for a smaller number."""
    if value == 0 or round(value, decimals) != 0:
        return decimals
    return -math.floor(math.log10(abs(value)))


def decimals_for(uncertainty: float | None, fallback: int) -> int:
    """How many decimals a value deserves: one digit of its uncertainty, two if that digit is a 1."""
    if uncertainty is None or not uncertainty > 0:
        return fallback
    mantissa, exponent = f"{uncertainty:.1e}".split("e")
    return max(0, -int(exponent) + (1 if float(mantissa) < 2 else 0))


def shorten(text: str, length: int) -> str:
    """A text cut to a length, with an ellipsis where something was cut off."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def listing(parts: Iterable[str]) -> str:
    """Words joined as English joins them: a, b and c."""
    parts = list(parts)
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def with_notes(text: str, *notes: str, between: str = ", ") -> str:
    """A text followed by notes in parentheses; empty notes are left out."""
    told = between.join(filter(None, notes))
    return f"{text} ({told})" if told else text


def sentences(*parts: str) -> str:
    """Sentences one after the other; empty ones are left out."""
    return " ".join(filter(None, parts))
