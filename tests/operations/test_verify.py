import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.artifacts.checksums import verify_folder
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.store import create
from pipeline.errors import ArtifactError
from pipeline.operations.verify import compared


def make(results, artefact, files):
    """Write an artefact whose files are given by their names."""
    manifest = results / "tiny" / artefact / "manifest.json"
    with create(manifest, kind="any", spec={}, provenance=Provenance()) as draft:
        for name, content in files.items():
            path = draft.path(name)
            if name.endswith(".safetensors"):
                save_file(content, path)
            else:
                path.write_text(content if isinstance(content, str) else json.dumps(content))


def against(one, other):
    return compared(one, verify_folder(one).sums, other)


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "one", tmp_path / "other"


TIMED = [
    (
        "rows.json",
        [{"n": 3, "solve_seconds": 1.0}],
        [{"n": 3, "solve_seconds": 2.0}],
        [{"n": 4, "solve_seconds": 1.0}],
    ),
    ("history.csv", "step,seconds\n1,0.5\n", "step,seconds\n1,0.7\n", "step,seconds\n2,0.5\n"),
    (
        "operator.safetensors",
        {"basis.seconds": np.zeros(3), "basis": np.zeros(3)},
        {"basis.seconds": np.ones(3), "basis": np.zeros(3)},
        {"basis.seconds": np.zeros(3), "basis": np.ones(3)},
    ),
]


@pytest.mark.parametrize(("name", "first", "later", "other"), TIMED, ids=[case[0] for case in TIMED])
def test_wall_times_are_told_from_differences(folders, name, first, later, other):
    one, two = folders
    make(one, "solve/a", {name: first})
    make(two, "solve/a", {name: later})
    assert against(one, two) == [
        f"against {two}: 0 of 1 files of artefacts are the same bit by bit, 1 differ in wall times alone"
    ]
    make(two, "solve/a", {name: other})
    assert against(one, two) == [
        f"against {two}: 0 of 1 files of artefacts are the same bit by bit, 1 differ",
        f"differs: tiny/solve/a/{name}",
    ]


def test_a_file_that_is_no_such_table_differs(folders):
    one, two = folders
    make(one, "solve/a", {"rows.json": "no JSON", "x.npy": "1"})
    make(two, "solve/a", {"rows.json": "none either", "x.npy": "2"})
    assert against(one, two)[1:] == ["differs: tiny/solve/a/rows.json", "differs: tiny/solve/a/x.npy"]


def test_what_is_a_measurement_as_a_whole_is_counted_and_no_difference(folders):
    one, two = folders
    make(one, "time_layers/a", {"roofs.json": {"gflops": 1.0}})
    make(two, "time_layers/a", {"roofs.json": {"gflops": 2.0}})
    (line,) = against(one, two)
    assert line.endswith("the same bit by bit, 1 are measurements, which differ")


def test_a_folder_without_the_study_is_refused(folders):
    one, two = folders
    make(one, "solve/a", {"x.npy": "1"})
    two.mkdir()
    with pytest.raises(ArtifactError, match="no study in common"):
        against(one, two)
