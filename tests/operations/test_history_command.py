import pytest

from pipeline.__main__ import main
from pipeline.artifacts.history import merge
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
    assert row.split()[:6] == ["tiny/solve/one", "result.accuracy", "4", "0.9", "0.8", "worse"]
    assert row.split()[-1] == "aaaaaaaa"


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


def test_without_results_it_says_so(checkout, capsys):
    assert main(["history", "--study", "tiny"]) == 2
    assert "run a study first" in capsys.readouterr().err
    assert main(["history", "--study", "../x"]) == 2
    assert "no name of a study" in capsys.readouterr().err
