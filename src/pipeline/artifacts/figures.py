"""The numbers of an artefact that are worth comparing from run to run.

These are the numeric facts of its manifest, the rows of the tables below, the resources of its process, and
Snakemake's measurements of its job.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Per kind: a table of the artefact, the columns that name a row, and the columns to keep; () keeps all.
TABLES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "timings": ("timings.json", ("layer", "batch", "mode"), ("speedup", "seconds_fp32", "seconds_fp16")),
    "scaling": ("rows.json", ("n",), ()),
}

# Snakemake's columns and their names here; they cover the job's child processes too.
BENCHMARK = {"s": "job_seconds", "max_rss": "job_max_rss_mb", "cpu_time": "job_cpu_seconds"}


def figures_of(manifest: Mapping[str, Any], folder: Path, benchmark: Path) -> dict[str, float]:
    """Collect an artefact's figures by dotted name; missing values and values that are not finite are left out.

    Args:
        manifest: The content of its manifest.
        folder: The folder of its files.
        benchmark: Snakemake's benchmark file of its job.
    """
    found = dict(_numbers(manifest["facts"], ""))
    if {"fit.seconds", "compress.seconds"} <= found.keys():
        # In older artefacts, compression's seconds include the fit's: another name keeps the two from being compared.
        found["compress.seconds_without_fit"] = found.pop("compress.seconds")
    found |= dict(_numbers(manifest["provenance"].get("cost") or {}, "cost."))
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
