"""The section on where the time went."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.report import tables
from pipeline.report.content import Section
from pipeline.report.formatting import DASH, is_number, plural, seconds


def rules_section(metrics: Mapping[str, Any], _: Mapping[str, np.ndarray]) -> Section | None:
    """Tell which rules took how long."""
    rules = metrics.get("rules") or []
    table = tables.rule_costs(rules)
    if table is None:
        return None
    slowest = max(rules, key=lambda row: row["seconds"] if is_number(row.get("seconds")) else 0.0)
    lead = f"{plural(len(rules), 'job')}; the longest is {slowest.get('rule', DASH)} {slowest.get('job', '')}".rstrip()
    return Section("time", "Where the time went", f"{lead} with {seconds(slowest.get('seconds'))}.", (table,))
