import signal
from pathlib import Path
from types import SimpleNamespace

import malformed
import pytest

from pipeline.artifacts.lock import hold, killed_holder, lock_file
from pipeline.operations import main_process
from pipeline.operations.outline import outline


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


REFUSED = (
    "compress airports: 700 points\nerror: a.csv: row 2: wanted a number\nCLEANING UP REMAINING PROCESSES\n"
)
FAULT = "Traceback (most recent call last):\n  File ...\nZeroDivisionError: division by zero\n"


@pytest.fixture
def job(tmp_path):
    """A function that makes a failed job of a name and of what its log says."""

    def make(name, text):
        (tmp_path / name).write_text(text)
        return SimpleNamespace(log=[str(tmp_path / name)])

    return make


def test_jobs_that_all_said_what_a_person_can_change_end_a_run_with_code_2(job):
    one, other = job("one", REFUSED), job("other", "error: the disk is full\n")
    with pytest.raises(SystemExit) as ended:
        main_process.end_in_failure([one, SimpleNamespace(jobs=[one, other])])
    assert ended.value.code == 2


@pytest.mark.parametrize("text", [FAULT, f"{FAULT}error: after it\n", "killed\n", ""])
def test_a_failure_that_nobody_foresaw_leaves_snakemakes_own_code(job, text):
    main_process.end_in_failure([job("refused", REFUSED), job("failed", text)])
    main_process.end_in_failure([])


def test_an_empty_log_on_a_full_disk_is_told_and_ends_a_run_with_code_2(job, monkeypatch, capsys):
    empty = job("full", "")
    main_process.end_in_failure([empty])
    assert not capsys.readouterr().err
    monkeypatch.setattr(main_process.shutil, "disk_usage", lambda _: SimpleNamespace(free=200_000))
    with pytest.raises(SystemExit) as ended:
        main_process.end_in_failure([empty])
    assert ended.value.code == 2
    assert "the disk is full, and nothing could be written; free some space" in capsys.readouterr().err


def test_a_job_that_slurm_refused_has_no_log_and_ends_a_run_with_code_2(monkeypatch):
    one = SimpleNamespace(log=["gone.txt"])
    monkeypatch.setattr(main_process, "_refused", [one])
    with pytest.raises(SystemExit) as ended:
        main_process.end_in_failure([one])
    assert ended.value.code == 2


@pytest.fixture
def signals():
    """Signals mean what they do in a terminal, whatever the tests were started with, and as before afterwards."""
    former = {wanted: signal.getsignal(wanted) for wanted in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for wanted, handler in former.items():
        signal.signal(wanted, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_end_a_run_that_still_plans_with_the_same_word_and_code(signals, capsys, number):
    main_process.heed_signals_while_planning()
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(number)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_end_a_run_with_the_code_of_an_interrupt(signals, monkeypatch, number):
    monkeypatch.setattr(main_process, "_interruptions", [])
    monkeypatch.setattr(main_process.psutil.Process, "children", lambda *_, **__: [])
    main_process.heed_signals_while_planning()
    main_process._heed_signals()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    with pytest.raises(SystemExit) as ended:
        main_process.end_in_failure([])
    assert ended.value.code == 130


@pytest.mark.parametrize("kind", malformed.STUDIES)
def test_a_malformed_file_of_every_format_ends_a_run_before_its_jobs_and_leaves_nothing(
    checkout, capsys, kind
):
    study, words = malformed.write(checkout, kind)
    specs = outline(study, Path("config/default.yaml"), cache=Path(".snakemake/outlines")).specs
    with pytest.raises(SystemExit) as ended:
        main_process.begin(None, executor=None, code={}, specs=[specs])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(words)
    assert not Path("results").exists()
    assert not list(Path(".snakemake").glob("*.lock"))
