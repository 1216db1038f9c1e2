"""Stage `report`: collect what the study found, and write its page."""

import csv
import json
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.artifacts.entry import Entry, entry_of
from pipeline.artifacts.history import read_snapshot
from pipeline.artifacts.store import Artifact, create
from pipeline.config.report import ReportSpec
from pipeline.errors import ArtifactError
from pipeline.report import render
from pipeline.report.changes import Comparison, compare
from pipeline.runtime.checkout import uncommitted
from pipeline.runtime.provenance import commits_between, provenance
from pipeline.stages.parts.spec import read_spec

# What the page draws of a solution on the globe: held-out places, and the map.
MAP_ARRAYS = (
    "longitude",
    "latitude",
    "values",
    "predicted",
    "grid_longitude",
    "grid_latitude",
    "grid",
)


def run(options: Namespace) -> list[Path]:
    """Read every artefact of the study; write `index.html` and `metrics.json`.

    Returns:
        The manifests that it read, which the command line need not have named.
    """
    spec = read_spec(options.spec, ReportSpec)
    folder = options.output.parent.parent
    manifests = options.artefacts or [folder / path / "manifest.json" for path in spec.artefacts()]
    found = _by_kind(manifests)
    origin = provenance(options.code)
    made_from = origin | {"uncommitted": uncommitted()}
    metrics, arrays = collect(spec, found, _rules(options.benchmarks, manifests), made_from)
    metrics["history"] = _history(options.history, manifests, folder)
    with create(options.output, kind="report", spec=spec, provenance=origin) as draft:
        draft.save_text("index.html", render(metrics, arrays))
        for matrix in metrics["matrices"].values():
            del matrix["structure"]  # a picture's worth of blocks, and no number that anyone compares
        draft.save_json("metrics", metrics)
    print(f"report: {options.output.parent / 'index.html'}")
    return list(manifests)


def _history(snapshot: Path | None, manifests: Iterable[Path], folder: Path) -> dict[str, Any] | None:
    """Every artefact against those of its name that came before it, had the same specs and the same machine."""
    past: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in read_snapshot(snapshot) if snapshot is not None else []:
        past.setdefault((entry.artefact, entry.lineage, entry.machine), []).append(entry)
    if not past:
        return None
    lineages: dict[Path, str] = {}
    comparisons: list[Comparison] = []
    since: dict[str, None] = {}
    for path in manifests:
        now = entry_of(path, folder, lineages=lineages)
        if now is None:
            continue
        before = [
            entry
            for entry in past.get((now.artefact, now.lineage, now.machine), [])
            if entry.manifest != now.manifest and entry.date <= now.date
        ]
        compared = compare(now.artefact, now.figures, [entry.figures for entry in before])
        if compared.n_figures:
            comparisons.append(compared)
        if compared.changes:
            for commit in commits_between(before[-1].commit_id, now.commit_id):
                since[commit] = None
    changes = sorted((change for c in comparisons for change in c.changes), key=lambda change: -change.size)
    return {
        "n_figures": sum(c.n_figures for c in comparisons),
        "n_artefacts": len(comparisons),
        "n_runs": max((c.n_runs for c in comparisons), default=0),
        "changes": [asdict(change) for change in changes],
        "commits": list(since),
    }


def _by_kind(manifests: Iterable[Path]) -> dict[str, list[tuple[str, Artifact]]]:
    """The study's artefacts with the names of their folders, by kind."""
    found: dict[str, list[tuple[str, Artifact]]] = {}
    for path in manifests:
        try:
            kind = json.loads(path.read_text())["kind"]
        except FileNotFoundError:
            raise ArtifactError(f"{path}: no such artefact; run snakemake to make it") from None
        except (OSError, ValueError, KeyError, TypeError):
            raise ArtifactError(f"{path}: not a manifest; name the manifest.json of an artefact") from None
        found.setdefault(kind, []).append((path.parent.name, Artifact.open(path, kind)))
    return found


def collect(
    spec: ReportSpec,
    found: Mapping[str, list[tuple[str, Artifact]]],
    rules: list[dict[str, Any]],
    origin: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Gather the numbers and arrays that the page shows; see `pipeline.report.metrics` for their names."""
    dataset = found["dataset"][0][1].facts
    networks = [artifact for _, artifact in found["network"]]
    data_keys = ("name", "train_samples", "validation_samples", "test_samples", "classes", "source")
    metrics: dict[str, Any] = {
        "study": {
            "name": spec.study,
            "description": spec.description,
            "seeds": list(spec.seeds),
            "dataset": {key: dataset[key] for key in data_keys},
            "model": {
                "name": networks[0].spec["model"]["name"],
                "n_parameters": networks[0].facts["n_parameters"],
            },
        },
        "training": {
            name: _run(name, label, networks, dataset["train_samples"]) for name, label in spec.runs.items()
        },
        "claims_of": spec.claims and spec.claims.model_dump(),
        "precision": _precision(found),
        "matrices": {},
        "scaling": None,
        "rules": rules,
        "provenance": origin,
    }
    arrays: dict[str, NDArray[Any]] = {}
    operators, solutions = dict(found.get("operator", [])), dict(found.get("solution", []))
    for name, points in found.get("points", []):
        metrics["matrices"][name] = _matrix(points, operators[name], solutions[name])
        for array in MAP_ARRAYS:
            if solutions[name].has(array):
                arrays[f"{name}/{array}"] = solutions[name].array(array)
    for _, scaling in found.get("scaling", []):
        metrics["scaling"] = dict(scaling.facts) | {"rows": scaling.json("rows")}
    return metrics, arrays


def _run(name: str, label: str, networks: Iterable[Artifact], train_samples: int) -> dict[str, Any]:
    """One training run over its seeds."""
    mine = [network for network in networks if network.facts["run"] == name]
    recipe = mine[0].spec["run"]
    seeds = {}
    for network in mine:
        facts = network.facts
        seeds[str(facts["seed"])] = {
            "history": [_numbers(row) for row in network.table("history")],
            **facts["scores"],
            "sharpness": facts["sharpness"],
            "seconds": facts["seconds"],
            "steps": facts["steps"],
            "kfac": _kfac(recipe, network),
            "phases": _phases(network),
            "messages": facts["messages"],
        }
    return {
        "label": label,
        "optimizer": recipe["optimizer"]["name"],
        "batch_size": recipe["batch_size"],
        "train_samples": recipe["train_samples"] or train_samples,
        "epochs": recipe["epochs"],
        "smoothing": [_in_words(smoothing) for smoothing in recipe["smoothing"]],
        "processes": mine[0].facts["processes"],
        "seeds": seeds,
    }


def _kfac(recipe: Mapping[str, Any], network: Artifact) -> dict[str, Any] | None:
    """What the preconditioner did and saw by the end of a run; None for a run without."""
    if recipe["optimizer"]["name"] != "kfac":
        return None
    last = _numbers(network.table("history")[-1])
    figures = ("n_retries", "n_stale", "n_skipped", "step_size", "damping", "factor_age", "inverse_age")
    return {name: last[name] for name in figures} | {"layers": network.json("layers")}


def _phases(network: Artifact) -> dict[str, float | int | None]:
    """Seconds of the parts of a run."""
    history = network.table("history")
    names = ("gradient_seconds", "preconditioner_seconds", "evaluation_seconds")
    return {name.removesuffix("_seconds"): _numbers(history[-1])[name] for name in names} if history else {}


def _in_words(options: Mapping[str, Any]) -> str:
    """`{name: mixup, alpha: 0.4}` as "mixup (alpha 0.4)"."""
    values = ", ".join(f"{key} {value}" for key, value in options.items() if key != "name")
    return f"{options['name'].replace('_', ' ')} ({values})"


def _precision(found: Mapping[str, list[tuple[str, Artifact]]]) -> dict[str, Any]:
    timings = dict(found.get("timings", []))
    networks = {}
    for name, converted in found.get("half_network", []):
        timed = timings[name]
        rows = timed.json("timings")
        shown = timed.spec["modes"][0]
        networks[name] = {
            "seed": converted.facts["seed"],
            "budget_points": converted.facts["budget_points"],
            "file_bytes": converted.facts["file_bytes"],
            "layers": converted.json("layers"),
            "plans": {
                batch: tested | {"verification": timed.facts["verification"][batch]}
                for batch, tested in timed.json("tests").items()
            },
            "mode": shown,
            "timings": [row for row in rows if row["mode"] == shown],
            "other_timings": [row for row in rows if row["mode"] != shown],
            "candidates": timed.json("candidates"),
            "device_timings": timed.json("device_timings")
            if "device_timings.json" in timed.manifest["files"]
            else [],
            "roofs": timed.json("roofs"),
        }
    return networks


def _matrix(points: Artifact, operator: Artifact, solution: Artifact) -> dict[str, Any]:
    return {
        "kernel": operator.facts["kernel"],
        "nugget": operator.facts["nugget"],
        "nugget_at_bound": operator.facts["nugget_at_bound"],
        "n": points.facts["n"],
        "dimension": points.facts["dimension"],
        "points": points.facts["name"],
        "task": operator.spec["task"],
        "compress": operator.facts["compress"],
        "solve": solution.facts["solve"],
        "result": solution.facts["result"],
        "structure": {
            "n": operator.facts["compress"]["n_rows"],
            "blocks": operator.array("blocks").tolist(),
            "levels": operator.facts["compress"]["levels"],
        },
    }


def _rules(folder: Path, artefacts: Iterable[Path]) -> list[dict[str, Any]]:
    """What each artefact's job cost, from the benchmark files that Snakemake left beside them."""
    rows = []
    for manifest in artefacts:
        job = manifest.parent.relative_to(folder.parent)
        file = folder / job.with_name(job.name + ".tsv")
        if not file.is_file():
            continue
        rule, *rest = job.parts
        with file.open(newline="") as table:
            for row in csv.DictReader(table, delimiter="\t"):
                cost = {"seconds": _number(row["s"]), "max_rss_mb": _number(row["max_rss"])}
                rows.append({"rule": rule, "job": "/".join(rest), **cost})
    return rows


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _numbers(row: Mapping[str, str]) -> dict[str, float | int | None]:
    """A row of a history with its numbers as such."""
    return {
        key: int(text) if key in ("epoch", "steps") or key.startswith("n_") else _number(text)
        for key, text in row.items()
    }
