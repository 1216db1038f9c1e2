"""Specs and artefacts as all stages read and write them; errors in a spec name the path of the value."""

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline.artifacts.store import Draft, create
from pipeline.config.messages import mistakes
from pipeline.config.section import Section
from pipeline.errors import ArtifactError, ConfigError
from pipeline.runtime.provenance import cost, provenance

S = TypeVar("S", bound=Section)


def read_spec(path: Path, kind: type[S]) -> S:
    """Read a spec; ArtifactError if the file is no spec or that of another stage, ConfigError for a wrong value."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not a readable spec ({error}); delete it and run snakemake again"
        ) from None
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: not a spec; give this stage the one that was frozen for it")
    if content and not content.keys() & kind.model_fields.keys():
        raise ArtifactError(
            f"{path}: wanted a spec with '{next(iter(kind.model_fields))}', found {', '.join(content)}; "
            "give this stage the spec that was frozen for it"
        )
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {mistakes(error, content)}") from None


@contextmanager
def written(options: Namespace, kind: str, spec: Section | Mapping[str, Any]) -> Iterator[Draft]:
    """Write the artefact that a stage was asked for; the option `output` is its manifest; see `create`."""
    with create(options.output, kind=kind, spec=spec, provenance=provenance(options.code)) as draft:
        yield draft
        draft.provenance = draft.provenance.model_copy(update={"cost": cost()})
