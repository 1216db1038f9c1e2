import json

import pytest

from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.results.scaling import ScalingRow
from pipeline.artifacts.store import Artifact, create
from pipeline.errors import ArtifactError

FACTS = PointsFacts(name="mine", n=3, dimension=2, description="three points")


@pytest.fixture
def points(tmp_path):
    with create(tmp_path / "manifest.json", kind="points", spec={}, provenance={}) as draft:
        draft.facts = FACTS
        draft.save_json("rows", [{"n": 1}])
    return tmp_path / "manifest.json"


def test_facts_are_read_as_they_were_written(points):
    assert Artifact.open(points, "points").facts_as(PointsFacts) == FACTS


def test_facts_of_an_older_version_are_named_as_such(points):
    manifest = json.loads(points.read_text())
    del manifest["facts"]["dimension"]
    points.write_text(json.dumps(manifest))
    with pytest.raises(
        ArtifactError, match=r"facts: written by another version .*\(dimension: field required\)"
    ):
        Artifact.open(points, "points").facts_as(PointsFacts)


def test_what_a_newer_version_notes_beside_them_is_left_aside(points):
    manifest = json.loads(points.read_text())
    manifest["facts"]["later"] = 1
    points.write_text(json.dumps(manifest))
    assert Artifact.open(points, "points").facts_as(PointsFacts) == FACTS


def test_a_row_of_an_older_version_is_named_by_its_number(points):
    with pytest.raises(ArtifactError, match=r"rows: row 1: written by another version"):
        Artifact.open(points, "points").rows_as("rows", ScalingRow)
