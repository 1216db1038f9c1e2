import json
from dataclasses import fields

import pytest

from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.results.half_network import (
    Answers,
    CandidateRow,
    ChangedRow,
    ConvertedLayer,
    DeviceRow,
    LayerErrorRow,
    RoofRow,
    TimingRow,
    Verified,
)
from pipeline.artifacts.results.network import EpochRow, FactorFigures, Flatness
from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.results.scaling import ScalingRow
from pipeline.artifacts.store import Artifact, create
from pipeline.errors import ArtifactError
from pipeline.precision.devices import DeviceTiming
from pipeline.precision.error import LayerError
from pipeline.precision.layer_timing import LayerTiming
from pipeline.precision.plan import RoundingReport
from pipeline.precision.predictions import ChangedPrediction, Predictions
from pipeline.precision.roofline import Roofs
from pipeline.precision.selection import Candidate
from pipeline.precision.verification import Verification
from pipeline.training.history import EpochRecord
from pipeline.training.sharpness import Sharpness

FACTS = PointsFacts(name="mine", n=3, dimension=2, description="three points")


@pytest.fixture
def points(tmp_path):
    with create(tmp_path / "manifest.json", kind="points", spec={}, provenance=Provenance()) as draft:
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


def test_values_and_whole_files_of_an_older_version_are_named(tmp_path):
    with create(tmp_path / "manifest.json", kind="network", spec={}, provenance=Provenance()) as draft:
        draft.save_json("layers", {"conv": {"pi": 2.0}, "dense": {"pi": "much"}})
        draft.save_json("roofs", {"gflops": 3.5})
        draft.save_json("old", {"gflops": "fast"})
    artifact = Artifact.open(tmp_path / "manifest.json", "network")
    with pytest.raises(ArtifactError, match=r"layers\.json: dense: written by another version"):
        artifact.values_as("layers", FactorFigures)
    assert artifact.json_as("roofs", RoofRow).gflops == 3.5
    with pytest.raises(ArtifactError, match=r"old\.json: written by another version"):
        artifact.json_as("old", RoofRow)


def test_a_history_is_read_from_its_table_with_cells_that_are_no_numbers(tmp_path):
    row = dict.fromkeys(EpochRow.model_fields, 1) | {"step_size": None, "train_loss": float("inf")}
    with create(tmp_path / "manifest.json", kind="network", spec={}, provenance=Provenance()) as draft:
        draft.save_table("history", [row])
    (found,) = Artifact.open(tmp_path / "manifest.json", "network").rows_as("history", EpochRow)
    assert (found.step_size, found.train_loss, found.epoch) == (None, float("inf"), 1)


@pytest.mark.parametrize(
    ("result", "core"),
    [
        (EpochRow, EpochRecord), (LayerErrorRow, LayerError), (ChangedRow, ChangedPrediction), (TimingRow, LayerTiming),
        (DeviceRow, DeviceTiming), (Verified, Verification), (RoofRow, Roofs), (Flatness, Sharpness),
        (Answers, Predictions),
    ],
)  # fmt: skip
def test_a_result_has_no_field_that_its_core_does_not_write(result, core):
    """A field that is renamed in a core fails here, and not in a report of next week."""
    assert set(result.model_fields) <= {field.name for field in fields(core)}


def test_a_converted_layer_has_every_figure_of_rounding_and_a_candidate_all_that_is_known_of_it():
    rounding, candidate = ({field.name for field in fields(kind)} for kind in (RoundingReport, Candidate))
    assert rounding <= set(ConvertedLayer.model_fields)
    assert candidate == set(CandidateRow.model_fields) - {"layer", "batch", "chosen"}


def test_a_row_of_an_older_version_is_named_by_its_number(points):
    with pytest.raises(ArtifactError, match=r"rows: row 1: written by another version"):
        Artifact.open(points, "points").rows_as("rows", ScalingRow)
