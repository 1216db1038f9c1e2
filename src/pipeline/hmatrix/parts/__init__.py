"""Factorization by parts: in one thread, in several, or in several processes, by the same code."""

from pipeline.hmatrix.parts.elimination import eliminate
from pipeline.hmatrix.parts.stages import Eliminated, PartsPlan, Problem, last_dense_level
from pipeline.hmatrix.parts.substitution import Substitution
from pipeline.hmatrix.parts.team import Tally, Team

__all__ = [
    "Eliminated",
    "PartsPlan",
    "Problem",
    "Substitution",
    "Tally",
    "Team",
    "eliminate",
    "last_dense_level",
]
