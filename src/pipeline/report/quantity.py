"""A predicted quantity with its unit, as sentences and axes name it."""

import re
from dataclasses import dataclass

from pipeline.artifacts.results.solution import KrigingResult, Result
from pipeline.report.formatting import significant, times


@dataclass(frozen=True)
class Quantity:
    """A predicted quantity and its unit; ``logarithmic`` for decimal logarithms, whose errors are factors."""

    name: str
    unit: str
    logarithmic: bool

    @classmethod
    def of(cls, result: Result | None) -> "Quantity":
        """Read quantity and unit of a prediction; "log10" in front of either makes it logarithmic."""
        name, unit = (result.quantity, result.unit) if isinstance(result, KrigingResult) else ("", "")
        name = name or "values"
        parts = [re.fullmatch(r"log_?10\s*(?:of\s+)?(.*)", text.strip()) for text in (name, unit)]
        logarithmic = any(part is not None for part in parts)
        name, unit = (part[1] if part else text for part, text in zip(parts, (name, unit), strict=True))
        if logarithmic:
            return cls(f"log₁₀ {unit if name in ('', 'values') and unit else name}", unit, logarithmic)
        if unit and name != unit:  # it may stand in brackets behind the name, too, and is removed there
            own = re.escape(unit)
            name = re.sub(rf"[\s_]*(\[\s*{own}\s*\]|\(\s*{own}\s*\))$", "", name) or name
        return cls(name, unit, logarithmic)

    @property
    def label(self) -> str:
        """The label of an axis: elevation (m), log₁₀ population."""
        return self.name if self.logarithmic or self.unit in ("", self.name) else f"{self.name} ({self.unit})"

    def error(self, value: object) -> str:
        """An error of this quantity: 187 m; logarithms have no unit."""
        return f"{significant(value, 3)} {'' if self.logarithmic else self.unit}".rstrip()

    def factor(self, value: float) -> str:
        """The factor that an error of a logarithm means."""
        return f" (a factor of {times(10.0**value)[:-1]})" if self.logarithmic and value < 6 else ""
