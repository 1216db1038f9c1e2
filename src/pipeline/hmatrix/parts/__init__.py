"""Factorization by parts: in one thread, in several, or in several processes, by the same code."""

from pipeline.hmatrix.parts.elimination import eliminate
from pipeline.hmatrix.parts.stages import Eliminated, Problem
from pipeline.hmatrix.parts.substitution import Substitution
from pipeline.hmatrix.parts.team import Tally, Team

__all__ = ["Eliminated", "Problem", "Substitution", "Tally", "Team", "eliminate"]
