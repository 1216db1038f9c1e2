"""The section on what the results were made from."""

from collections.abc import Mapping

import numpy as np

from pipeline.report.content import Facts, Section
from pipeline.report.facts import provenance_facts
from pipeline.report.metrics import Metrics


def provenance_section(metrics: Metrics, _: Mapping[str, np.ndarray]) -> Section | None:
    """Tell where, when and from what the study was made."""
    facts = provenance_facts(metrics.provenance)
    if not facts:
        return None
    return Section("provenance", "Provenance", "What these results were made from.", (Facts(facts),))
