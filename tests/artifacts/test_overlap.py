"""Which jobs ran beside others."""

import pytest

from pipeline.artifacts.overlap import Span, ran_alone
from pipeline.artifacts.provenance import Provenance


def made(minute: int, seconds: float, host: str = "here") -> Provenance:
    return Provenance(host=host, date=f"2026-11-28T20:{minute:02}:00+00:00", cost={"seconds": seconds})


def test_a_span_ends_with_its_date():
    span = Span.of(made(10, 90.0))
    assert span.end - span.start == 90.0
    assert span.end == Span.of(made(11, 1.0)).end - 60.0


@pytest.mark.parametrize(
    "unknown", [{}, {"host": "here", "date": None}, {"host": "a", "date": "2026-01-01T00:00:00"}]
)
def test_an_artefact_that_does_not_tell_has_no_span(unknown):
    assert Span.of(Provenance(**unknown)) is None
    assert ran_alone(None, [Span.of(made(1, 2.0))]) is None


@pytest.mark.parametrize(
    ("other", "alone"),
    [
        (made(8, 60.0), True),  # over before
        (made(9, 60.0), False),
        (made(20, 600.0 + 120.0), False),
        (made(20, 600.0 + 2.0), True),  # two seconds of 120 disturb nothing
        (made(9, 60.0, host="there"), True),
    ],
)
def test_jobs_that_overlap_on_one_machine_are_not_alone(other, alone):
    mine = Span.of(made(10, 120.0))
    assert ran_alone(mine, [mine, Span.of(other)]) is alone
