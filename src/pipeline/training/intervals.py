"""When K-FAC renews its factors and their inverses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LONGEST = 16  # how many times their usual length adaptive intervals get at most
STATE = ("step", "next_factors", "next_inverses", "stretch", "last_factors", "last_inverses")


@dataclass
class Intervals:
    """Count steps, and tell in which of them factors and inverses are due.

    Attributes:
        factor_interval: Steps between updates of the factors.
        inverse_interval: Steps between inversions.
        adaptive_change: Both intervals double while factors move by less than this share of themselves, else halve;
            0: they stay.
        step: Steps done.
        stretch: How many times their usual length the intervals have now.
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
        """Whether this step updates the factors, so that its passes are looked at."""
        return self.step >= self.next_factors

    @property
    def inverses_are_due(self) -> bool:
        """Whether this step inverts the factors."""
        return self.step >= self.next_inverses

    @property
    def factor_age(self) -> int:
        """Steps since the factors were updated, the one of the update included."""
        return self.step - self.last_factors

    @property
    def inverse_age(self) -> int:
        """Steps since the factors were inverted, the one of the inversion included."""
        return self.step - self.last_inverses

    def factors_moved(self, change: float | None) -> None:
        """Note an update of the factors.

        Args:
            change: Share of themselves by which they have moved; None where it is not known.
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
        """What a resumed run needs, as plain numbers."""
        return {name: getattr(self, name) for name in STATE}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; other entries are left aside."""
        for name in STATE:
            setattr(self, name, state[name])
