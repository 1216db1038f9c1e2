"""Stage `report`: collect the results of the study, and write its page."""

import csv
import json
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from pipeline.artifacts.entry import HistoryEntry, entry_of
from pipeline.artifacts.history import read_snapshot
from pipeline.artifacts.store import Artifact, create
from pipeline.config.report import ReportSpec
from pipeline.report import render
from pipeline.report.changes import Comparison, compare
from pipeline.report.metrics import HistoryMetrics, Metrics, Missing, Origin, RuleCost
from pipeline.runtime.provenance import commits_between, provenance, uncommitted
from pipeline.stages.parts.collected import collect
from pipeline.stages.parts.spec import read_spec


def run(options: Namespace) -> list[Path]:
    """Write `index.html` and `metrics.json`; return the manifests that were read, whether they were named or found."""
    spec = read_spec(options.spec, ReportSpec)
    folder = options.output.parent.parent
    # The artefacts that the main process recorded as missing after jobs had failed.
    noted = json.loads(options.missing.read_text(encoding="utf-8")) if options.missing else {}
    missing = [Missing(artefact=artefact, reason=reason) for artefact, reason in noted.items()]
    manifests = options.artefacts or [
        folder / path / "manifest.json" for path in spec.artefacts() if path not in noted
    ]
    found: dict[str, list[tuple[str, Artifact]]] = {}
    for artifact in map(Artifact.open, manifests):
        found.setdefault(artifact.manifest["kind"], []).append((artifact.folder.name, artifact))
    pages = {
        name: folder.parent / name / "report" / "manifest.json"
        for name in spec.beside
        if f"{name}/report" not in noted
    }
    beside = {name: Artifact.open(page, "report").json_as("metrics", Metrics) for name, page in pages.items()}
    origin = provenance(options.code)
    made_from = Origin(**origin.model_dump(), uncommitted=tuple(uncommitted()))
    history = _history(options.history, manifests, folder)
    rules = _rules(options.benchmarks, manifests)
    metrics, arrays = collect(spec, found, rules, made_from, history, missing, beside)
    with create(options.output, kind="report", spec=spec, provenance=origin) as draft:
        draft.save_text("index.html", render(metrics, arrays))
        # Without the blocks of the pictures, which hold no number to compare; other studies have their own metrics.
        alone = metrics.model_copy(update={"beside": {}})
        blocks = {"matrices": {"__all__": {"structure"}}}
        draft.save_json("metrics", alone.model_dump(mode="json", exclude=blocks))
    print(f"report: {options.output.parent / 'index.html'}")
    return [*manifests, *pages.values()]


def _history(snapshot: Path | None, manifests: Iterable[Path], folder: Path) -> HistoryMetrics | None:
    """Compare every artefact with earlier ones of its name that had the same specs and the same machine."""
    earlier: dict[str, list[HistoryEntry]] = {}
    for entry in read_snapshot(snapshot) if snapshot is not None else []:
        earlier.setdefault(entry.artefact, []).append(entry)
    if not earlier:
        return None
    lineages: dict[Path, str] = {}
    comparisons: list[Comparison] = []
    since: dict[str, None] = {}
    respecified: list[str] = []
    # Changes that the last page showed are not shown again.
    reported = max((entry.date for entry in earlier.get("report", [])), default="")
    for path in manifests:
        now = entry_of(path, folder, lineages=lineages)
        if now is None:
            continue
        others = [
            entry
            for entry in earlier.get(now.artefact, [])
            if entry.manifest != now.manifest and entry.date <= now.date
        ]
        before = [one for one in others if (one.lineage, one.machine) == (now.lineage, now.machine)]
        last = max(others, key=lambda entry: entry.date, default=now)
        if now.date > reported and last.lineage != now.lineage:
            respecified.append(now.artefact)
        compared = compare(now.artefact, now.figures, [entry.figures for entry in before])
        if compared.n_figures:
            comparisons.append(compared)
        if compared.changes:
            since |= dict.fromkeys(commits_between(before[-1].commit_id, now.commit_id))
    changes = sorted((change for c in comparisons for change in c.changes), key=lambda change: -change.size)
    return HistoryMetrics(
        n_figures=sum(c.n_figures for c in comparisons),
        n_artefacts=len(comparisons),
        n_runs=max((c.n_runs for c in comparisons), default=0),
        changes=changes,
        commits=list(since),
        respecified=respecified,
    )


def _rules(folder: Path, artefacts: Iterable[Path]) -> list[RuleCost]:
    """The cost of each artefact's job, from Snakemake's benchmark files beside the artefacts."""
    rows = []
    for manifest in artefacts:
        job = manifest.parent.relative_to(folder.parent)
        file = folder / job.with_name(job.name + ".tsv")
        if not file.is_file():
            continue
        rule, *rest = job.parts
        with file.open(newline="") as table:
            for row in csv.DictReader(table, delimiter="\t"):
                spent, memory = _number(row["s"]), _number(row["max_rss"])
                rows.append(RuleCost(rule=rule, job="/".join(rest), seconds=spent, max_rss_mb=memory))
    return rows


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
