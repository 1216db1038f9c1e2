"""The section on where the time went."""

from collections.abc import Mapping

import numpy as np

from pipeline.report import tables
from pipeline.report.content import PageSection
from pipeline.report.formatting import plural, seconds
from pipeline.report.metrics import Metrics


def rules_section(metrics: Metrics, _: Mapping[str, np.ndarray]) -> PageSection | None:
    """Tell which rules took how long."""
    rules = metrics.rules
    table = tables.rule_costs(rules)
    if table is None:
        return None
    slowest = max(rules, key=lambda row: row.seconds or 0.0)
    lead = f"{plural(len(rules), 'job')}; the longest is {slowest.rule} {slowest.job}".rstrip()
    return PageSection("time", "Where the time went", f"{lead} with {seconds(slowest.seconds)}.", (table,))
