"""The outlines of a study and of those beside it: the data that rules need, cached under a digest of all behind it.

Snakemake reads its rules anew in every job. Validating a study imports all three cores, and torch with them, which
takes seconds. An outline is plain data, and a job that finds one in the cache imports none of them.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.disk import write_atomically
from pipeline.config.yaml_files import read_study_file
from pipeline.errors import ConfigError

SOURCES = Path(__file__).resolve().parents[1]
#: Where outlines are kept.
OUTLINES = Path(".snakemake", "outlines")
#: Every change of a study or of the code makes another outline; only this many are kept.
KEPT = 20
#: First parts of the paths of artefacts that a study with training alone makes.
TRAINING = ("dataset", "tune/", "train/", "predict")


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
    """Validate a study as Snakemake read it, or read its outline from `cache`; a ConfigError names the wrong value."""
    kept = cache / f"{_key(config, default)}.json"
    with suppress(OSError, ValueError, TypeError):  # there is none, or only a part of one
        return Outline(**json.loads(kept.read_text(encoding="utf-8")))
    made = _made(config, default)
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


def _made(config: Mapping[str, Any], default: Path) -> Outline:
    # Not at the top of this file: jobs read the cached outline, and must not import every core to do so.
    from pipeline.config.loading import load_study
    from pipeline.config.points import Embeddings
    from pipeline.config.specs import artefacts_of, specs

    study = load_study(config, default)
    parts = specs(study)
    return Outline(
        study=study.study,
        beside=dict(study.beside),
        seeds={run: list(seeds) for run, seeds in study.seeds_by_run().items()},
        runs=list(study.training.runs),
        tuned=study.training.tuned,
        matrices=list(study.matrices),
        embedded={
            name: matrix.points.run
            for name, matrix in study.matrices.items()
            if isinstance(matrix.points, Embeddings)
        },
        budget_points=study.precision.budget_points,
        networks=list(study.precision.networks),
        specs=parts,
        artefacts=artefacts_of(parts["report"]),
        files=study.files(),
    )


def studies_beside(files: Mapping[str, str], default: Path, cache: Path = OUTLINES) -> dict[str, Outline]:
    """Return the outlines of the studies beside another one, by their names, from the file of each.

    A file that is missing or wrong, or holds a study that can't stand beside another one, is a ConfigError.
    """
    found = {}
    for name, file in files.items():
        try:
            found[name] = outline(read_study_file(Path(file)), default, cache)
        except ConfigError as error:
            # Errors in the file itself already begin with its path.
            said = str(error) if str(error).startswith(file) else f"{file}: {error}"
            raise ConfigError(f"beside.{name}: {said}") from None
        if problem := _why_not(name, found[name]):
            raise ConfigError(f"beside.{name}: {file} {problem}")
    return found


def _why_not(name: str, study: Outline) -> str:
    """Say why a study can't stand beside another one under this name; empty if it can."""
    if study.study != name:
        return f"is the file of study {study.study}; write that name before it, or name another file"
    if study.beside:
        return f"has studies beside it itself ({', '.join(study.beside)}); name them in this study instead"
    if not study.runs:
        return "has no training.runs to compare; name a study that trains"
    # The rules of matrices and conversions depend on their study; the rule of a training is the same in all studies.
    if more := dict.fromkeys(path.split("/")[0] for path in study.artefacts if not path.startswith(TRAINING)):
        return f"makes more than trainings ({', '.join(more)}); compute it by itself"
    return ""
