"""A malformed file of every format ends `snakemake` before jobs begin: one line, code 2, nothing left behind."""

import subprocess
import sys

import malformed
import pytest

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def place(make_workplace, tmp_path_factory):
    return make_workplace(tmp_path_factory.mktemp("malformed"))


@pytest.mark.parametrize("kind", malformed.STUDIES)
def test_a_malformed_file_is_refused_by_snakemake_in_one_line_and_leaves_nothing(place, kind):
    study, words = malformed.write(place.folder, kind)
    place.write_study(study)
    output = place.snakemake(code=2)
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert line.startswith(words)
    assert "Traceback" not in output
    assert not (place.folder / "results").exists()
    assert not list((place.folder / ".snakemake").glob("*.lock"))


@pytest.mark.parametrize("source", ["own.onnx", "own"])
def test_new_refuses_a_malformed_network_and_malformed_images_in_one_line(place, source):
    malformed.write(place.folder, ".onnx" if source.endswith("onnx") else "folder")
    before = sorted((place.folder / "config").iterdir())
    command = [sys.executable, "-m", "pipeline", "new", "mine", "--from", source]
    made = subprocess.run(command, cwd=place.folder, env=place.environment(), text=True, capture_output=True)
    assert made.returncode == 2
    (line,) = made.stderr.splitlines()
    assert line.startswith(f"error: {source}")
    assert made.stdout == ""
    assert sorted((place.folder / "config").iterdir()) == before
