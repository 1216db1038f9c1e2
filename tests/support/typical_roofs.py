"""Roofs that are not measured: how they are is tested in tests/precision."""

import pytest

from pipeline.precision.roofline import TYPICAL_ROOFS


def take_typical_roofs(patch: pytest.MonkeyPatch) -> None:
    """Let layers be timed below the roofs of a typical machine."""
    patch.setattr("pipeline.precision.timing.measure_roofs", lambda _: TYPICAL_ROOFS)
    patch.setattr("pipeline.precision.timing.measure_attained", lambda roofs: roofs)
