"""The section on what changed against past runs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.report import tables
from pipeline.report.content import Block, Section
from pipeline.report.formatting import count, plural


def history_section(metrics: Mapping[str, Any], _: Mapping[str, np.ndarray]) -> Section | None:
    """What moved beyond the noise of past runs, and the commits since; nothing where there is no past."""
    history = metrics.get("history") or {}
    n_figures = history.get("n_figures") or 0
    if not n_figures:
        return None
    changes, commits = history.get("changes") or [], history.get("commits") or []
    compared = (
        f"{plural(n_figures, 'figure')} of {plural(history.get('n_artefacts') or 0, 'artefact')} compared with up to "
        f"{plural(history.get('n_runs') or 0, 'past run')} of the same specs on the same kind of machine"
    )
    if not changes:
        return Section("past", "Against past runs", f"{compared}: none moved beyond their noise.")
    worse = sum(change["verdict"] == "worse" for change in changes)
    lead = (
        f"{compared}: {count(len(changes))} moved beyond their noise, {count(worse)} of them for the worse."
    )
    blocks: list[Block] = [tables.changes(changes)]
    if commits:
        blocks.append(tables.commits(commits))
    return Section("past", "Against past runs", lead, tuple(blocks))
