"""Which jobs of a study ran at the same time as others, from their manifests."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pipeline.artifacts.provenance import Provenance

#: Overlaps shorter than this fraction of a job's time disturb no figure that anyone compares.
LEAST_PART = 0.05


@dataclass(frozen=True)
class Span:
    """When a job ran, in seconds since 1970, and on which machine."""

    host: str
    start: float
    end: float

    @classmethod
    def of(cls, made: Provenance) -> "Span | None":
        """Return when the job of an artefact ran; None where its provenance lacks the job's time."""
        if not (made.host and made.date and "seconds" in made.cost):
            return None
        end = datetime.fromisoformat(made.date).timestamp()
        return cls(made.host, end - made.cost["seconds"], end)

    def beside(self, other: "Span") -> float:
        """Seconds in which both ran on the same machine."""
        if self.host != other.host:
            return 0.0
        return max(min(self.end, other.end) - max(self.start, other.start), 0.0)


def ran_alone(span: Span | None, all_spans: Iterable[Span]) -> bool | None:
    """Return whether a job had its machine to itself for nearly all of its time; None if that is not known.

    Jobs that leave no artefact, and other users' processes, are not seen.
    """
    if span is None:
        return None
    others = (other for other in all_spans if other != span)
    return sum(span.beside(other) for other in others) <= LEAST_PART * (span.end - span.start)
