"""Patience with shared file systems, which may show one node's files to another only after some time."""

import time
from dataclasses import dataclass, field

SECONDS = 60.0


@dataclass(frozen=True)
class Patience:
    """A minute in which a missing file may still appear.

    Attributes:
        seconds: How long the patience lasts.
    """

    seconds: float = field(default_factory=lambda: SECONDS)
    _begin: float = field(default_factory=time.monotonic)

    @property
    def ended(self) -> bool:
        """Whether the time is over."""
        return self._left <= 0

    @property
    def _left(self) -> float:
        return self._begin + self.seconds - time.monotonic()

    def pause(self) -> None:
        """Wait a second, before the next look."""
        time.sleep(max(min(1.0, self._left), 0.0))
