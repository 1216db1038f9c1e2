"""The outline of a study: the data that the workflow's rules need, cached under a digest of all that it depends on.

Snakemake reads its rules anew in every job. Validating a study imports all three cores, and torch with them, which
takes seconds. An outline is plain data, and a job that finds one in the cache imports none of them.
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
#: Every change of a study or of the code makes another outline; only this many are kept.
KEPT = 20


@dataclass(frozen=True)
class Outline:
    """The data that the rules need of a study."""

    study: str
    #: The files of the studies that are computed in the same call, by their names.
    beside: dict[str, str]
    #: The seeds of each training run.
    seeds: dict[str, list[int]]
    runs: list[str]
    #: The runs whose options are chosen by trials.
    tuned: list[str]
    matrices: list[str]
    #: The matrices whose points are a network's features, each with the run that trained the network.
    embedded: dict[str, str]
    budget_points: float
    #: Trained networks from the user's own files.
    networks: list[str]
    #: The spec of each rule by its path below `spec/`.
    specs: dict[str, dict[str, Any]]
    #: Every artefact except the report, by its path below the study's folder.
    artefacts: list[str]
    #: The user's own files, by the key that names each in the study.
    files: dict[str, str]


def outline(config: Mapping[str, Any], default: Path, cache: Path) -> Outline:
    """Validate a study as Snakemake read it, or read its outline from `cache` if it is there.

    Raises:
        ConfigError: If a value is wrong; the message begins with the full path of the first one.
    """
    kept = cache / f"{_key(config, default)}.json"
    with suppress(OSError, ValueError, TypeError):  # there is none, or only a part of one
        return Outline(**json.loads(kept.read_text(encoding="utf-8")))
    # Not at the top of this file: jobs read the cached outline, and must not import every core to do so.
    made: Outline = importlib.import_module("pipeline.operations.outlining").outline_of(config, default)
    with suppress(OSError):
        write_atomically(kept, json.dumps(asdict(made)))
        for old in sorted(cache.glob("*.json"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink()
    return made


def _key(config: Mapping[str, Any], default: Path) -> str:
    """Return a name for all that decides an outline: the configuration, the default study and this package's files."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=repr).encode())
    digest.update(default.read_bytes() if default.is_file() else b"")
    for file in sorted(SOURCES.rglob("*.py")):
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
