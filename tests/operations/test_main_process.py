import pytest

from pipeline.artifacts.lock import hold, killed_holder, lock_file
from pipeline.operations import main_process


@pytest.fixture
def held(tmp_path):
    """A turn of this process in a folder of its own."""
    yield main_process._turn.enter_context(hold(tmp_path))
    main_process.end()


def test_a_run_that_ends_by_an_error_of_its_own_leaves_nothing_when_it_has_no_jobs(held, tmp_path):
    main_process._end_early(held)
    assert not lock_file(tmp_path, "main").exists()
    assert killed_holder(tmp_path) is None


def test_a_run_that_ends_by_an_error_of_its_own_leaves_word_of_jobs_that_it_submitted(held, tmp_path):
    held.name_jobs("parsimony_1")
    main_process._end_early(held)
    assert killed_holder(tmp_path).jobs == "parsimony_1"


def test_a_run_whose_submissions_were_all_refused_has_no_jobs(held, tmp_path):
    held.name_jobs("parsimony_1")
    held.name_jobs("")
    main_process._end_early(held)
    assert not lock_file(tmp_path, "main").exists()
