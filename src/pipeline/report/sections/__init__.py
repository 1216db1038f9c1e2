"""The sections of the page in reading order: one file for each core, and one for the study as a whole.

A section is a function of the study's metrics and arrays; it returns None where the study has nothing for it. To add
one, write a file with such a function beside these, and name it below: the page, its menu, and the numbers of figures
and tables follow.
"""

from collections.abc import Callable

from pipeline.report.content import PageSection
from pipeline.report.drawing import Arrays
from pipeline.report.metrics import Metrics
from pipeline.report.sections.elsewhere import elsewhere_section
from pipeline.report.sections.matrices import matrices_section
from pipeline.report.sections.precision import precision_section
from pipeline.report.sections.study import (
    history_section,
    missing_section,
    provenance_section,
    rules_section,
)
from pipeline.report.sections.training import training_section

SECTIONS: tuple[Callable[[Metrics, Arrays], PageSection | None], ...] = (
    missing_section,
    training_section,
    elsewhere_section,
    precision_section,
    matrices_section,
    rules_section,
    history_section,
    provenance_section,
)
