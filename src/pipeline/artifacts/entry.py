"""The history's entry for an artefact: its figures, who made it, and which entries it may be compared with."""

import hashlib
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.figures import figures_of


@dataclass(frozen=True)
class HistoryEntry:
    """One artefact as one run made it.

    Attributes:
        manifest: sha256 of the manifest, which differs from run to run.
        stamp: Size and time of the manifest; an artefact whose stamp is unchanged is not read again.
        lineage: Digest of its spec and of the specs of all its inputs; only artefacts of equal lineage are comparable.
        machine: Processor, cores and GPU; times from different machines are not comparable.
        figures: Numbers by dotted names.
    """

    study: str
    artefact: str
    kind: str
    date: str
    manifest: str
    stamp: str
    lineage: str
    machine: str
    code: str
    commit_id: str | None
    dirty: bool | None
    host: str | None
    slurm_job: str | None
    figures: Mapping[str, float]


def entry_of(
    path: Path,
    folder: Path,
    known: Container[tuple[str, str]] = (),
    lineages: dict[Path, str] | None = None,
) -> HistoryEntry | None:
    """Read an artefact's entry; None where it is known, missing or broken.

    Args:
        path: The artefact's manifest.
        folder: The study's folder.
        known: Pairs of artefact and stamp that need not be read.
        lineages: Lineages that were read before.
    """
    artefact = path.parent.relative_to(folder).as_posix()
    try:
        status = path.stat()
        stamp = f"{status.st_size}:{status.st_mtime_ns}"
        if (artefact, stamp) in known:
            return None
        content = path.read_bytes()
        manifest = json.loads(content)
        made = manifest["provenance"]
        benchmark = folder / "benchmarks" / f"{artefact}.tsv"
        return HistoryEntry(
            study=folder.name,
            artefact=artefact,
            kind=manifest["kind"],
            date=made["date"],
            manifest=hashlib.sha256(content).hexdigest(),
            stamp=stamp,
            lineage=_lineage(path, {} if lineages is None else lineages, manifest),
            machine=_machine(made),
            code=made.get("code") or "",
            commit_id=made.get("commit"),
            dirty=made.get("dirty"),
            host=made.get("host"),
            slurm_job=made.get("slurm_job"),
            figures=figures_of(manifest, path.parent, benchmark),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _lineage(path: Path, known: dict[Path, str], manifest: Mapping[str, Any] | None = None) -> str:
    """Digest the specs behind an artefact: its own and those of its inputs."""
    if path not in known:
        known[path] = ""  # ends a cycle, which only a forged manifest has
        try:
            manifest = json.loads(path.read_text(encoding="utf-8")) if manifest is None else manifest
            inputs = manifest["provenance"].get("inputs") or {}
            behind = [_lineage(Path(source), known) for _, source in sorted(inputs.items())]
            text = json.dumps([manifest["kind"], manifest["spec"], behind], sort_keys=True)
            known[path] = hashlib.sha256(text.encode()).hexdigest()[:16]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
    return known[path]


def _machine(made: Mapping[str, Any]) -> str:
    parts = [str(made.get("cpu", "unknown")), f"{made.get('cores', '?')} cores", *(made.get("gpus") or [])]
    return ", ".join(parts)
