import contextlib
import socket
import sqlite3

import pytest

from pipeline.__main__ import main
from pipeline.artifacts.history import database_of, merge, write_snapshot
from pipeline.artifacts.lock import hold
from pipeline.operations.explain import reason_then
from pipeline.operations.history import in_its_unit
from pipeline.operations.studies import RESULTS


@pytest.fixture
def past(checkout, write):
    """Four runs of one artefact; the newest lost accuracy."""
    for day, value in enumerate((0.9, 0.9, 0.9, 0.8), start=1):
        manifest = write("solve/one", date=f"2026-01-0{day}T12:00:00+00:00", value=value)
        if day < 4:
            merge(RESULTS, "tiny", [manifest])


def test_the_table_tells_runs_median_newest_and_verdict(past, capsys):
    assert main(["history", "--study", "tiny"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["artefact", "figure", "runs"]
    assert row.split()[:3] == ["tiny/solve/one", "result.accuracy", "4"]
    assert row.split()[3:8] == ["90.00", "%", "80.00", "%", "worse"]
    assert row.split()[-1] == "aaaaaaaa"


@pytest.mark.parametrize(
    ("figure", "value", "shown"),
    [
        ("job_seconds", 0.25, "250 ms"),
        ("conv1.64.warm.seconds_fp16", 1.5e-6, "1.50 µs"),
        ("compress.n_bytes", 1.25e9, "1.25 GB"),
        ("job_max_rss_mb", 812.0, "851 MB"),
        ("conv1.64.warm.speedup", 1.52, "1.52×"),
        ("solve.relative_residual", 3.21e-9, "3.210 × 10⁻⁹"),
        ("result.rmse", 187.13, "187.1"),
        ("solve.iterations", 3.0, "3"),
        ("result.n_points", 28298.0, "28,298"),
        ("solve.iterations", 2.5, "2.500"),
        ("result.energy", 1e300, "1.000 × 10³⁰⁰"),
        ("scores.test.accuracy", 0.877, "87.70 %"),
        ("accuracy.fp32", 0.9, "90.00 %"),
        ("accuracy.64.fp16", 0.877, "87.70 %"),
        ("accuracy.64.points_lost", 0.1234, "0.1234"),
    ],
)
def test_a_figure_is_shown_in_the_unit_of_its_name(figure, value, shown):
    assert in_its_unit(figure, value).replace("\N{NO-BREAK SPACE}", " ") == shown


def test_figures_are_chosen_by_pattern(past, capsys):
    assert main(["history", "--figure", "cost.*", "--artefact", "solve/*"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert {row.split()[1] for row in rows} == {
        "cost.seconds",
        "cost.peak_memory_bytes",
        "cost.package_joules",
    }
    assert main(["history", "--artefact", "gone/*"]) == 2
    assert "no figures that match" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["plot.svg", "plot.png"])
def test_they_are_plotted(past, checkout, name, capsys):
    assert main(["history", "--plot", name]) == 0
    assert (checkout / name).stat().st_size > 1000


def test_an_ending_that_cannot_be_drawn_is_one_line(past, capsys):
    assert main(["history", "--plot", "plot.txt"]) == 2
    assert "use .svg, .png or .pdf" in capsys.readouterr().err


@pytest.fixture
def held(checkout, monkeypatch):
    """A function that lets a main process of another host work in the checkout."""
    with contextlib.ExitStack() as stack:

        def hold_on(host):
            with monkeypatch.context() as patch:
                patch.setattr(socket, "gethostname", lambda: host)
                stack.enter_context(hold(checkout))

        yield hold_on


def test_a_database_that_another_host_writes_is_not_opened(past, held, monkeypatch, capsys):
    write_snapshot(RESULTS, "tiny")
    database = database_of(RESULTS)
    before = database.read_bytes()
    held("login2")
    monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: pytest.fail("opened the database"))
    assert main(["history", "--study", "tiny"]) == 0
    shown = capsys.readouterr()
    assert "on login2 " in shown.err
    # Of the four runs, those that the main process knew when it began.
    assert shown.out.splitlines()[1].split()[2] == "3"
    assert "2026-01-03" in reason_then(RESULTS / "tiny/solve/one", RESULTS / "tiny")
    assert database.read_bytes() == before


def test_a_main_process_of_this_host_shares_its_database(past, held, capsys):
    held(socket.gethostname())
    for study in ("tiny", "tiny.yaml", "config/tiny.yaml"):
        assert main(["history", "--study", study]) == 0
        assert capsys.readouterr().out.splitlines()[1].split()[2] == "4"


def test_without_results_it_says_so(checkout, capsys):
    assert main(["history", "--study", "tiny"]) == 2
    assert "run a study first" in capsys.readouterr().err
    assert main(["history", "--study", "../x"]) == 2
    assert "is not a valid name of a study" in capsys.readouterr().err
