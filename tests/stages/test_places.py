"""A point set of the library that is not on the globe goes through the stages as those on it do."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.store import Artifact, create
from pipeline.data import Places, PointSet
from pipeline.hmatrix.kernels import SquaredExponential
from pipeline.runtime.communicator import Serial
from pipeline.stages.parts import kriging
from pipeline.stages.points import write_places


@dataclass(frozen=True, kw_only=True)
class Waves(Places):
    """Waves along the first coordinate.

    Attributes:
        dimension: Number of coordinates.
    """

    name: ClassVar[str] = "waves"
    QUANTITY: ClassVar[str] = "height"

    dimension: int = 2

    def load(self):
        points = np.random.default_rng(self.seed).random((self.n, self.dimension))
        height = np.sin(9 * points[:, 0])
        return PointSet(points, {"height": height}, [], "waves", {"points": "km", "height": "m"})


def answer(tmp_path, places):
    manifest = tmp_path / "manifest.json"
    with create(manifest, kind="points", spec={}, provenance=Provenance()) as draft:
        draft.facts = write_places(draft, places)
    points = Artifact.open(manifest, "points")
    return kriging.answer(points, SquaredExponential(0.3), 1e-4, 1e-6, None, Serial())


def test_points_of_the_plane_are_predicted_on_a_map_over_their_box(tmp_path):
    found = answer(tmp_path, Waves(n=211))
    (x, unit), (y, _), (field, _) = (found.arrays[name] for name in ("grid_x", "grid_y", "grid"))
    assert unit == "km"
    assert field.shape == (len(y), len(x))
    inside = (x > 0) & (x < 1)
    rows = (y > 0.1) & (y < 0.9)
    # The held-out values are predicted as well as this, and the map shows the same field.
    assert found.result.rmse < 0.1
    assert np.abs(field[np.ix_(rows, inside)] - np.sin(9 * x[inside])).max() < 0.1


@pytest.mark.parametrize("dimension", [1, 3, 4])
def test_points_of_another_dimension_have_predictions_and_no_map(tmp_path, dimension):
    found = answer(tmp_path, Waves(n=97, dimension=dimension))
    assert "grid" not in found.arrays
    assert np.isfinite(found.result.rmse)
