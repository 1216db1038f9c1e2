"""The outline of a study: what the workflow's rules need of it, cached under a digest of all that it was made from.

Snakemake reads its rules anew in every job. Validating a study imports all three cores, and torch with them, which
takes seconds; an outline is plain data, and a job that finds one imports none of that.
"""

import hashlib
import importlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.disk import write_atomically

SOURCES = Path(__file__).resolve().parents[1]
#: Where outlines are kept.
OUTLINES = Path(".snakemake", "outlines")
#: Every change of a study or of the code makes another outline; this many stay.
KEPT = 20


@dataclass(frozen=True)
class Outline:
    """What the rules need of a study."""

    study: str
    #: The files of the studies that are computed in the same call, by their names.
    beside: dict[str, str]
    #: The seeds of each training run.
    seeds: dict[str, list[int]]
    runs: list[str]
    #: The runs whose options trials choose.
    tuned: list[str]
    matrices: list[str]
    #: The matrices whose points are a network's features, each with the run that trained the network.
    embedded: dict[str, str]
    budget_points: float
    #: Trained networks from the user's own files.
    networks: list[str]
    #: The spec of each rule by its path below `spec/`.
    specs: dict[str, dict[str, Any]]
    #: Every artefact but the report, by its path below the study's folder.
    artefacts: list[str]
    #: The user's own files, by the key of the study that names each.
    files: dict[str, str]


def outline(config: Mapping[str, Any], default: Path, cache: Path) -> Outline:
    """Validate a study as Snakemake read it, or read the outline of the same one from `cache`, where it is kept.

    Raises:
        ConfigError: If a value is wrong; the message begins with the full path of the first one.
    """
    kept = cache / f"{_key(config, default)}.json"
    with suppress(OSError, ValueError, TypeError):  # there is none, or not a whole one
        return Outline(**json.loads(kept.read_text(encoding="utf-8")))
    # Not at the top of this file: jobs read what is kept, and would import every core to do so.
    made: Outline = importlib.import_module("pipeline.operations.outlining").outline_of(config, default)
    with suppress(OSError):
        write_atomically(kept, json.dumps(asdict(made)))
        for old in sorted(cache.glob("*.json"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink()
    return made


def _key(config: Mapping[str, Any], default: Path) -> str:
    """A name for all that decides an outline: the configuration, the default study and this package's files."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=repr).encode())
    digest.update(default.read_bytes() if default.is_file() else b"")
    for file in sorted(SOURCES.rglob("*.py")):
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
