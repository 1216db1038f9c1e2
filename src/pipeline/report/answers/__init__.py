"""The study's answer: one headline number and a few sentences per core, computed from the metrics."""

from pipeline.report.answers.bits import answer_bits
from pipeline.report.answers.numbers import answer_numbers
from pipeline.report.answers.steps import answer_steps
from pipeline.report.content import CoreAnswer
from pipeline.report.elsewhere import claims_elsewhere
from pipeline.report.metrics import Metrics

__all__ = ["answer_bits", "answer_numbers", "answer_steps", "answers"]


def answers(metrics: Metrics) -> tuple[CoreAnswer, ...]:
    """Answer for every core that the study has."""
    n_classes = len(metrics.study.classes)
    found = (
        answer_steps(metrics.training, metrics.claims_of, n_classes, claims_elsewhere(metrics)),
        answer_bits(metrics.precision, metrics.training, n_classes),
        answer_numbers(metrics.matrices, metrics.scaling, n_classes),
    )
    return tuple(answer for answer in found if answer is not None)
