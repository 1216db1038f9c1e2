"""What a user can act on. The command line prints these in one line and exits 2."""

from collections.abc import Iterator
from contextlib import contextmanager


class PipelineError(Exception):
    """Base of all errors whose text tells the user what to change; it is one line, whatever names it holds."""

    def __str__(self) -> str:
        """Return the text, with escapes for line breaks and other marks that a terminal would obey."""
        text = super().__str__()
        return "".join(
            mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text
        )


class ConfigError(PipelineError, ValueError):
    """A study, a data set or an argument is not usable as given; as in NumPy, that is a ValueError too."""


class ArtifactError(PipelineError):
    """An artefact is missing, incomplete or altered."""


class ConvergenceError(PipelineError):
    """A numerical method stopped short of what was asked of it."""


class DivergenceError(ConvergenceError):
    """Training has left the finite numbers; with smaller steps it may not."""


class ProcessLostError(PipelineError):
    """Another process of the job is gone, so this one cannot go on."""


class Interrupted(Exception):
    """A job ended early because it was asked to, and left behind what it needs to go on."""


@contextmanager
def errors_about(subject: str) -> Iterator[None]:
    """Put what is worked on, such as a part of the study, before the text of any error that a user can act on."""
    try:
        yield
    except PipelineError as error:
        raise type(error)(f"{subject}: {error}") from error
