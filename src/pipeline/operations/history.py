"""Command `history`: the figures of past runs as a table and as a plot."""

import fnmatch
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from pipeline.artifacts.entry import HistoryEntry
from pipeline.artifacts.history import manifests_of, merge, read, read_snapshot, snapshot_of
from pipeline.errors import ConfigError
from pipeline.operations.main_process import main_elsewhere
from pipeline.operations.studies import RESULTS, SAFE
from pipeline.operations.text import columns
from pipeline.report import formatting
from pipeline.report.changes import compare

# Figures that are shown by default: the ones that a study is judged by.
HEADLINES = (
    "scores.test.accuracy", "accuracy*.fp16", "*.speedup", "compress.relative_error", "compress.n_bytes",
    "solve.relative_residual", "result.*", "job_seconds", "job_max_rss_mb",
)  # fmt: skip
MOST_PANELS = 24
# Whole numbers beyond this are not counts.
MOST_EXACT = 1e12


@dataclass(frozen=True)
class FigureSeries:
    """One figure of one artefact over runs of equal specs on equal machines, oldest first."""

    artefact: str
    figure: str
    entries: Sequence[HistoryEntry]

    @property
    def values(self) -> list[float]:
        return [entry.figures[self.figure] for entry in self.entries]

    @property
    def verdict(self) -> str:
        """Tell whether the newest value lies within the noise of the others; return nothing if they are too few."""
        past = [{self.figure: value} for value in self.values[:-1]]
        found = compare(self.artefact, {self.figure: self.values[-1]}, past)
        if not found.n_figures:
            return ""
        return found.changes[0].verdict if found.changes else "as before"


def run(options: Namespace) -> None:
    """Bring the history up to date, print the requested figures, and plot them on request."""
    studies = [path.name for path in sorted(RESULTS.glob("*")) if SAFE.match(path.name)]
    if options.study:  # the study's name, or its file's name or path
        options.study = re.sub(r"^config/(?=[^/]+\.ya?ml$)|\.ya?ml$", "", options.study)
        studies = [options.study]
        if not SAFE.match(options.study):
            raise ConfigError(
                f"--study: {options.study!r} is not a valid name of a study; use letters, digits, '.', '-' and '_' only"
            )
    main = main_elsewhere()
    if main is None:
        for study in studies:
            if (RESULTS / study).is_dir():
                merge(RESULTS, study, manifests_of(RESULTS / study))
        entries = read(RESULTS, options.study, options.last)
    else:
        print(
            f"{main} keeps the history until it ends; this is the history from before it began.",
            file=sys.stderr,
        )
        entries = [entry for study in studies for entry in read_snapshot(snapshot_of(RESULTS, study))]
    found = series_of(entries, options.artefact, options.figure)
    if not found:
        what = f" of study {options.study}" if options.study else ""
        raise ConfigError(
            f"history: no figures{what} that match; run a study first, or leave out some conditions"
        )
    rows = [
        (
            f"{one.entries[-1].study}/{one.artefact}",
            one.figure,
            str(len(one.values)),
            in_its_unit(one.figure, float(np.median(one.values))),
            in_its_unit(one.figure, one.values[-1]),
            one.verdict,
            one.entries[-1].date[:16].replace("T", " "),
            (one.entries[-1].commit_id or "")[:8] + ("+" if one.entries[-1].dirty else ""),
        )
        for one in found
    ]
    header = ("artefact", "figure", "runs", "median", "newest", "verdict", "made (UTC)", "commit")
    print(columns(header, rows, right=(2, 3, 4)))
    if options.plot:
        plot(found, options.plot)
        print(f"plot: {options.plot}")


def in_its_unit(figure: str, value: float) -> str:
    """Write a figure's value in the unit that its name ends with."""
    name = re.split(r"[._]", figure)
    if "seconds" in name:
        return formatting.seconds(value)
    if "bytes" in name:
        return formatting.n_bytes(value)
    if name[-1] == "mb":
        return formatting.n_bytes(value * 2**20)  # Snakemake's MB
    if name[-1] == "speedup":
        return formatting.times(value)
    if name[-1] == "accuracy" or (name[0] == "accuracy" and name[-1] in ("fp16", "fp32")):
        return formatting.percent(value, 2)
    if value.is_integer() and abs(value) < MOST_EXACT:
        return formatting.count(value)
    return formatting.significant(value, 4)


def series_of(
    entries: Sequence[HistoryEntry], artefact: str | None, figures: Sequence[str]
) -> list[FigureSeries]:
    """Return the series of figures whose names match a pattern, up to each artefact's newest run."""
    newest = {(entry.study, entry.artefact): entry for entry in entries}
    found = []
    for (study, name), last in newest.items():
        if artefact is not None and not fnmatch.fnmatchcase(name, artefact):
            continue
        alike = [
            entry
            for entry in entries
            if (entry.study, entry.artefact) == (study, name)
            and (entry.lineage, entry.machine) == (last.lineage, last.machine)
        ]
        for figure in last.figures:
            if any(fnmatch.fnmatchcase(figure, pattern) for pattern in figures or HEADLINES):
                having = [entry for entry in alike if figure in entry.figures]
                found.append(FigureSeries(name, figure, having))
    return sorted(found, key=lambda one: (one.entries[-1].study, one.artefact, one.figure))


def plot(found: Sequence[FigureSeries], path: Path) -> None:
    """Draw every series over the dates of its runs, each in its own panel; the file's ending decides the format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = found[:MOST_PANELS]
    wide = min(len(shown), 3)
    figure = Figure(figsize=(4.2 * wide, 2.3 * -(-len(shown) // wide)), layout="constrained")
    if path.suffix[1:] not in FigureCanvasAgg(figure).get_supported_filetypes():
        raise ConfigError(f"--plot: {path} has no ending that can be drawn; use .svg, .png or .pdf")
    for axes, one in zip(
        figure.subplots(-(-len(shown) // wide), wide, squeeze=False).flat, shown, strict=False
    ):
        dates = [datetime.fromisoformat(entry.date) for entry in one.entries]
        axes.plot(dates, one.values, marker="o", markersize=4, color="#2a6f97", linewidth=1)
        if one.verdict in ("worse", "different", "better"):
            axes.plot(dates[-1:], one.values[-1:], marker="o", markersize=7, color="#c1121f")
        axes.set_title(f"{one.artefact}\n{one.figure}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.tick_params(axis="x", rotation=30)
    for axes in list(figure.axes)[len(shown) :]:
        axes.set_visible(False)
    if len(found) > len(shown):
        figure.suptitle(f"{len(shown)} of {len(found)} figures", fontsize=9)
    figure.savefig(path)
