"""Counts in sentences."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: 1 job, 2 jobs, 1,000 jobs."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
