"""The section on what the results were made from."""

from collections.abc import Mapping

import numpy as np

from pipeline.report.content import NamedValues, PageSection
from pipeline.report.facts import provenance_facts
from pipeline.report.metrics import Metrics


def provenance_section(metrics: Metrics, _: Mapping[str, np.ndarray]) -> PageSection | None:
    """Tell where, when and from what the study was made."""
    facts = provenance_facts(metrics.provenance)
    if not facts:
        return None
    return PageSection(
        "provenance", "Provenance", "What these results were made from.", (NamedValues(facts),)
    )
