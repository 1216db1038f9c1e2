"""Counts and values in sentences."""

_LONGEST = 120  # letters


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: 1 job, 2 jobs, 1,000 jobs."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def shown(value: object) -> str:
    """Return the representation of a value that was passed, for an error: on one line and not too long."""
    words = " ".join(repr(value).split())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."
