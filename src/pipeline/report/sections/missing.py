"""The section on what a study with failed jobs does not have."""

from collections.abc import Mapping

import numpy as np

from pipeline.report.content import Column, PageSection, Table
from pipeline.report.formatting import plural
from pipeline.report.metrics import Metrics


def missing_section(metrics: Metrics, _: Mapping[str, np.ndarray]) -> PageSection | None:
    """List each missing artefact with its reason; nothing where the study is whole."""
    if not metrics.missing:
        return None
    n = len(metrics.missing)
    lead = (
        f"{plural(n, 'result')} of this study {'is' if n == 1 else 'are'} missing, because jobs failed. Means, "
        "verdicts and comparisons on this page are of what is there."
    )
    rows = tuple((one.artefact, one.reason) for one in metrics.missing)
    table = Table.of("Missing results and why", ("Result", Column("Reason")), rows)
    return PageSection("missing", "What is missing", lead, (table,))
