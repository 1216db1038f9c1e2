"""When K-FAC renews its factors and their inverses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LONGEST = 16  # largest multiple of their usual length that adaptive intervals reach
STATE = ("step", "next_factors", "next_inverses", "stretch", "last_factors", "last_inverses")


@dataclass
class Intervals:
    """Count steps, and tell in which of them factors and inverses are due.

    Attributes:
        factor_interval: Steps between updates of the factors.
        inverse_interval: Steps between inversions.
        adaptive_change: Relative change of the factors below which both intervals double, and else halve; 0: they stay.
        step: Steps done.
        stretch: Current multiple of the intervals' usual length.
    """

    factor_interval: int
    inverse_interval: int
    adaptive_change: float = 0.0
    step: int = field(default=0, init=False)
    stretch: int = field(default=1, init=False)
    next_factors: int = field(default=0, init=False)
    next_inverses: int = field(default=0, init=False)
    last_factors: int = field(default=0, init=False)
    last_inverses: int = field(default=0, init=False)

    @property
    def factors_are_due(self) -> bool:
        """Whether this step updates the factors, so that statistics of its passes are needed."""
        return self.step >= self.next_factors

    @property
    def inverses_are_due(self) -> bool:
        """Whether this step inverts the factors."""
        return self.step >= self.next_inverses

    @property
    def factor_age(self) -> int:
        """Steps since the factors were updated, including the step of the update."""
        return self.step - self.last_factors

    @property
    def inverse_age(self) -> int:
        """Steps since the factors were inverted, including the step of the inversion."""
        return self.step - self.last_inverses

    def factors_moved(self, change: float | None) -> None:
        """Note an update of the factors.

        Args:
            change: Their relative change; None if it is not known.
        """
        if change is not None:
            still = change < self.adaptive_change
            self.stretch = min(2 * self.stretch, LONGEST) if still else max(1, self.stretch // 2)
        self.last_factors = self.step
        self.next_factors = self.step + self.stretch * self.factor_interval

    def inverted(self) -> None:
        """Note an inversion."""
        self.last_inverses = self.step
        self.next_inverses = self.step + self.stretch * self.inverse_interval

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain numbers."""
        return {name: getattr(self, name) for name in STATE}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned, within the present intervals; other entries are ignored."""
        for name in STATE:
            setattr(self, name, state[name])
        longest = LONGEST if self.adaptive_change else 1
        self.stretch = min(self.stretch, longest)
        self.next_factors = min(self.next_factors, self.last_factors + longest * self.factor_interval)
        self.next_inverses = min(self.next_inverses, self.last_inverses + longest * self.inverse_interval)
