"""The section on what changed against past runs."""

from collections.abc import Mapping

import numpy as np

from pipeline.report import tables
from pipeline.report.content import Block, PageSection
from pipeline.report.formatting import count, plural
from pipeline.report.metrics import Metrics


def history_section(metrics: Metrics, _: Mapping[str, np.ndarray]) -> PageSection | None:
    """What moved beyond the noise of past runs, and the commits since; nothing where there is no past."""
    history = metrics.history
    if history is None or not history.n_figures:
        return None
    changes = history.changes
    compared = (
        f"{plural(history.n_figures, 'figure')} of {plural(history.n_artefacts, 'artefact')} were compared with up to "
        f"{plural(history.n_runs, 'past run')} of the same specs on the same kind of machine"
    )
    if not changes:
        return PageSection("past", "Against past runs", f"{compared}: none moved beyond their noise.")
    worse = sum(change.verdict == "worse" for change in changes)
    lead = (
        f"{compared}: {count(len(changes))} moved beyond their noise, {count(worse)} of them for the worse."
    )
    blocks: list[Block] = [tables.changes(changes)]
    if history.commits:
        blocks.append(tables.commits(history.commits))
    return PageSection("past", "Against past runs", lead, tuple(blocks))
