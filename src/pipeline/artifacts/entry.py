"""The history's entry for an artefact: its figures, who made it, and which entries it may be compared with.

Figures are the numbers that are worth comparing from run to run: the numeric facts of its manifest, the rows of the
tables below, the resources of its process, and Snakemake's measurements of its job.
"""

import csv
import hashlib
import json
import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.artifacts.provenance import Provenance

# Per kind: a table of the artefact, the columns that name a row, and the columns to keep; () keeps all.
TABLES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "timings": ("timings.json", ("layer", "batch", "mode"), ("speedup", "seconds_fp32", "seconds_fp16")),
    "scaling": ("rows.json", ("n",), ()),
}

# Snakemake's columns and their names here; they cover the job's child processes too.
BENCHMARK = {"s": "job_seconds", "max_rss": "job_max_rss_mb", "cpu_time": "job_cpu_seconds"}


@dataclass(frozen=True)
class HistoryEntry:
    """One artefact as one run made it.

    Attributes:
        manifest: sha256 of the manifest, which differs from run to run.
        stamp: Size and time of the manifest; an artefact whose stamp is unchanged is not read again.
        lineage: Digest of its spec and of the specs of all its inputs; only artefacts of equal lineage are comparable.
        machine: Processor, cores and GPU; times from different machines are not comparable.
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
    path: Path, folder: Path, known: Container[tuple[str, str]] = (), lineages: dict[Path, str] | None = None
) -> HistoryEntry | None:
    """Read the entry of an artefact of the study in `folder`; None where it is known, missing or broken.

    Pairs of artefact and stamp in `known` need not be read, and `lineages` keeps those that were read before.
    """
    artefact = path.parent.relative_to(folder).as_posix()
    try:
        status = path.stat()
        stamp = f"{status.st_size}:{status.st_mtime_ns}"
        if (artefact, stamp) in known:
            return None
        content = path.read_bytes()
        manifest = json.loads(content)
        made = provenance_of(manifest)
        if not made.date:
            return None
        machine = [made.cpu or "unknown", f"{made.cores or '?'} cores", *made.gpus]
        benchmark = folder / "benchmarks" / f"{artefact}.tsv"
        return HistoryEntry(
            study=folder.name,
            artefact=artefact,
            kind=manifest["kind"],
            date=made.date,
            manifest=hashlib.sha256(content).hexdigest(),
            stamp=stamp,
            lineage=_lineage(path, {} if lineages is None else lineages, manifest),
            machine=", ".join(machine),
            code=made.code,
            commit_id=made.commit,
            dirty=made.dirty,
            host=made.host or None,
            slurm_job=made.slurm_job,
            figures=figures_of(manifest, path.parent, benchmark),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def provenance_of(manifest: Mapping[str, Any]) -> "Provenance":
    """Read the provenance in a manifest; raises KeyError or ValueError if there is none."""
    # It brings pydantic, which jobs on a cluster need not load in order to start.
    from pipeline.artifacts.provenance import Provenance

    return Provenance.model_validate(manifest["provenance"])


def _lineage(path: Path, known: dict[Path, str], manifest: Mapping[str, Any] | None = None) -> str:
    """Digest the specs behind an artefact: its own and those of its inputs."""
    if path not in known:
        known[path] = ""  # ends a cycle, which only a forged manifest has
        try:
            manifest = json.loads(path.read_text(encoding="utf-8")) if manifest is None else manifest
            inputs = sorted(provenance_of(manifest).inputs.items())
            behind = [_lineage(Path(source), known) for _, source in inputs]
            text = json.dumps([manifest["kind"], manifest["spec"], behind], sort_keys=True)
            known[path] = hashlib.sha256(text.encode()).hexdigest()[:16]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
    return known[path]


def figures_of(manifest: Mapping[str, Any], folder: Path, benchmark: Path) -> dict[str, float]:
    """Collect an artefact's figures by dotted name; missing values and values that are not finite are left out."""
    found = dict(_numbers(manifest["facts"], ""))
    if {"fit.seconds", "compress.seconds"} <= found.keys():
        # In older artefacts, compression's seconds include the fit's: another name keeps the two from being compared.
        found["compress.seconds_without_fit"] = found.pop("compress.seconds")
    found |= dict(_numbers(provenance_of(manifest).cost, "cost."))
    if manifest["kind"] in TABLES:
        found |= dict(_rows(folder, *TABLES[manifest["kind"]]))
    return found | dict(_job(benchmark))


def _numbers(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{key}", float(value)


def _rows(
    folder: Path, file: str, names: tuple[str, ...], kept: tuple[str, ...]
) -> Iterator[tuple[str, float]]:
    try:
        rows = json.loads((folder / file).read_text(encoding="utf-8"))
        for row in rows:
            prefix = ".".join(str(row[name]) for name in names)
            columns = {key: row.get(key) for key in kept or row if key not in names}
            yield from _numbers(columns, f"{prefix}.")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return


def _job(benchmark: Path) -> Iterator[tuple[str, float]]:
    try:
        with benchmark.open(newline="", encoding="utf-8") as table:
            row = next(csv.DictReader(table, delimiter="\t"), {})
    except (OSError, ValueError, csv.Error):
        return
    for column, name in BENCHMARK.items():
        try:
            value = float(row[column])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(value):
            yield name, value
