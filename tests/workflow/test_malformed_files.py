"""A malformed file ends `snakemake` in one line and with code 2, whether it is found before jobs begin or by a job.

`tests/operations/test_main_process.py` has every format.
"""

import malformed
import pytest

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def place(make_workplace, tmp_path_factory):
    return make_workplace(tmp_path_factory.mktemp("malformed"))


def test_a_malformed_file_is_refused_before_jobs_begin_and_leaves_nothing(place):
    study, words = malformed.write(place.folder, ".csv")
    place.write_study(study)
    output = place.snakemake(code=2)
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert line.startswith(words)
    assert "Traceback" not in output
    assert not place.results.exists()
    assert not list((place.folder / ".snakemake").glob("*.lock"))


def test_a_file_that_is_too_large_to_be_read_beforehand_is_refused_by_the_job_that_reads_it(place):
    source = place.folder / "src/pipeline/operations/paths.py"
    text = source.read_text()
    source.write_text(text.replace("READ_UP_TO = 64_000_000", "READ_UP_TO = 0"))
    assert source.read_text() != text
    study, words = malformed.write(place.folder, ".csv")
    place.write_study(study)
    output = place.snakemake(code=2)
    (line,) = [line for line in output.splitlines() if line.strip().startswith("error: ")]
    assert words.partition("points: ")[2] in line
    assert "Traceback" not in output
    assert not list(place.results.glob("points/*/manifest.json"))
    assert not list((place.folder / ".snakemake").glob("*.lock"))
