"""The study's answer: one headline number and a few sentences per core, computed from the metrics."""

from collections.abc import Mapping
from typing import Any

from pipeline.report.answers.bits import answer_bits
from pipeline.report.answers.numbers import answer_numbers
from pipeline.report.answers.steps import answer_steps
from pipeline.report.content import Answer
from pipeline.report.runs import n_classes_of

__all__ = ["answer_bits", "answer_numbers", "answer_steps", "answers"]


def answers(metrics: Mapping[str, Any]) -> tuple[Answer, ...]:
    """Answer for every core that the study has."""
    training = metrics.get("training") or {}
    n_classes = n_classes_of(metrics)
    found = (
        answer_steps(training, metrics.get("claims_of"), n_classes),
        answer_bits(metrics.get("precision") or {}, training, n_classes),
        answer_numbers(metrics.get("matrices") or {}, metrics.get("scaling"), n_classes),
    )
    return tuple(answer for answer in found if answer is not None)
