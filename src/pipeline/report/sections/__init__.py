"""The sections of the page in reading order: one file for each core, and one for the study as a whole.

A section is a function of the study's metrics and arrays; it returns None where the study has nothing for it. To add
one, write a file with such a function beside these, and name it below: the page, its menu, and the numbers of figures
and tables follow.
"""

from collections.abc import Callable

from pipeline.report.content import PageSection
from pipeline.report.drawing import Arrays
from pipeline.report.metrics import Metrics
from pipeline.report.sections import elsewhere, matrices, precision, study, training

SECTIONS: tuple[Callable[[Metrics, Arrays], PageSection | None], ...] = (
    study.missing_section,
    training.training_section,
    elsewhere.elsewhere_section,
    precision.precision_section,
    matrices.matrices_section,
    study.rules_section,
    study.history_section,
    study.provenance_section,
)
