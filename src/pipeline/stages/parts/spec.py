"""Specs, and the path of a value in the errors about it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError, PipelineError


class Spec(dict[str, Any]):
    """A frozen spec; a section that it lacks is an error that says so."""

    path: Path

    def __missing__(self, key: str) -> Any:
        raise ArtifactError(
            f"{self.path}: wanted a spec with '{key}', found {', '.join(self) or 'nothing'}; "
            "give this stage the spec that was frozen for it"
        )


def read_spec(path: Path) -> Spec:
    """Read a frozen spec.

    Raises:
        ArtifactError: If it is none; or later, if a section that is asked for is missing.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not a readable spec ({error}); delete it and run snakemake again"
        ) from None
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: not a spec; give this stage the one that was frozen for it")
    spec = Spec(content)
    spec.path = path
    return spec


@contextmanager
def errors_about(subject: str) -> Iterator[None]:
    """Put the part of the study that is worked on before the text of any error that a user can act on."""
    try:
        yield
    except PipelineError as error:
        raise type(error)(f"{subject}: {error}") from error
