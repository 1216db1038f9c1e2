from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest
from annotated_types import Gt

from pipeline.options import Count, Decay, Positive, Tolerance, descriptions, require_bounds, summary


@dataclass(frozen=True)
class Base:
    """A base.

    Attributes:
        rate: Of the base.
    """

    rate: Positive = 1.0

    def __post_init__(self):
        require_bounds(self)


@dataclass(frozen=True)
class Derived(Base):
    """Something derived: two lines,

    with more below.

    Attributes:
        steps: How many,
            over two lines.
        rate: Said anew.

    References:
        kind: Not a field of this section.
    """

    steps: Count = 1
    decay: Decay = 0.5
    kind: Literal["a", "b"] = "a"
    over: Annotated[float, Gt(2)] = 3.0
    free: str = ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": 0}, "rate must be positive, not 0"),
        ({"rate": float("nan")}, "rate must be a number, not nan"),
        ({"rate": "1"}, "rate must be a number, not '1'"),
        ({"rate": True}, "rate must be a number, not True"),
        ({"rate": 1e101}, "rate must be positive and at most|rate must be positive, not"),
        ({"steps": 1.0}, "steps must be a whole number, not 1.0"),
        ({"steps": True}, "steps must be a whole number, not True"),
        ({"steps": 0}, r"steps must lie in \[1, 1e\+09\], not 0"),
        ({"decay": 1}, r"decay must lie in \[0, 1\), not 1"),
        ({"kind": "c"}, "kind must be one of a, b, not 'c'"),
        ({"over": 2}, r"over must lie in \(2, inf\), not 2"),
    ],
)
def test_a_value_out_of_its_bounds_is_refused_by_name(options, words):
    with pytest.raises(ValueError, match=f"Derived: {words}"):
        Derived(**options)


def test_numbers_of_numpy_are_numbers():
    assert Derived(rate=np.float32(0.5), steps=np.int64(3)).steps == 3


def test_descriptions_come_from_the_docstrings_of_a_class_and_its_bases():
    assert descriptions(Derived) == {"rate": "Said anew.", "steps": "How many, over two lines."}
    assert descriptions(Base) == {"rate": "Of the base."}
    assert summary(Base) == "A base."


def test_a_tolerance_excludes_one():
    @dataclass(frozen=True)
    class Loose:
        tolerance: Tolerance

    require_bounds(Loose(0.5))
    with pytest.raises(ValueError, match="tolerance must lie in"):
        require_bounds(Loose(1.0))
