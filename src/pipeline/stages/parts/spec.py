"""Specs, and the path of a value in the errors about it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError, PipelineError


def read_spec(path: Path) -> dict[str, Any]:
    """Read a frozen spec."""
    try:
        spec: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not a readable spec ({error}); delete it and run snakemake again"
        ) from None
    return spec


@contextmanager
def errors_about(subject: str) -> Iterator[None]:
    """Put the part of the study that is worked on before the text of any error that a user can act on."""
    try:
        yield
    except PipelineError as error:
        raise type(error)(f"{subject}: {error}") from error
