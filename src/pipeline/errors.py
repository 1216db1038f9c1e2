"""Errors that a user can act on. The command line prints each in one line and exits with code 2."""

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
    """Training reached NaN or infinity; smaller steps may avoid that."""


class ProcessLostError(PipelineError):
    """Another process of the job is gone, so this one cannot go on."""


class Interrupted(Exception):
    """A job was asked to end early, and saved what it needs to continue."""


@contextmanager
def errors_about(subject: str) -> Iterator[None]:
    """Put `subject`, such as a part of the study, before the text of any PipelineError that is raised inside."""
    try:
        yield
    except PipelineError as error:
        raise type(error)(f"{subject}: {error}") from error
