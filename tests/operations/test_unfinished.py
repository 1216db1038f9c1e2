import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.config.report import ReportSpec
from pipeline.operations.unfinished import clear_page, leave_page, missing_artefacts, tell_how_to_get_the_page

SPEC = ReportSpec(
    study="tiny", description="", seeds={}, runs={}, claims=None, tuned=(), sweeps={}, converted=(),
    matrices=("a", "b"), scaling=False,
).model_dump()  # fmt: skip


class Job:
    """A job of Snakemake, as far as the page of an unfinished study looks at it."""

    def __init__(self, artefact, *behind, log="", done=False):
        self.artefact, self.behind, self.done = artefact, behind, done
        self.output = [f"results/tiny/{artefact}/manifest.json"]
        self.log = [f"results/tiny/logs/{artefact}.txt"]
        path = Path(self.log[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(log)


class Graph(SimpleNamespace):
    """Snakemake's graph of these jobs."""

    dependencies = None

    def needrun_jobs(self):
        return self.jobs

    def finished(self, job):
        return job.done

    def bfs(self, _dependencies, job):
        yield job
        for other in job.behind:
            yield from self.bfs(_dependencies, other)


@pytest.fixture
def graph(checkout):
    done = Job("points/a", done=True)
    refused = Job("compress/a", done, log="starts\nerror: a.csv: row 2: wanted a number\n")
    broken = Job("compress/b", log="Traceback (most recent call last)\nZeroDivisionError: division by zero\n")
    waiting, idle, beside = Job("solve/a", refused), Job("points/b"), Job("convert/c", log="converted\n")
    report = Job("report", waiting)
    jobs = [done, refused, broken, waiting, idle, beside, Job("solve/b", broken), report]
    return Graph(jobs=jobs, failed=[refused, SimpleNamespace(jobs=[broken, beside])])


def test_each_missing_result_has_its_reason(graph):
    assert missing_artefacts(graph, graph.failed, Path("results/tiny")) == {
        "compress/a": "a.csv: row 2: wanted a number",
        "compress/b": "the job failed (ZeroDivisionError: division by zero); its log is "
        "results/tiny/logs/compress/b.txt",
        "solve/a": "waits for compress/a",
        "solve/b": "waits for compress/b",
        "convert/c": "shared a place in the queue with a job that failed",
        "points/b": "was not started, because another job had failed",
        "report": "waits for compress/a",
    }


def test_a_study_of_which_nothing_is_there_leaves_a_page_of_reasons(graph, capsys):
    graph.jobs[0].done = False
    leave_page("tiny", SPEC, graph, graph.failed)
    page = Path("results/tiny/unfinished/index.html")
    assert capsys.readouterr().err == f"The page of what is there, and of what is missing: {page}\n"
    assert "a.csv: row 2: wanted a number" in page.read_text()
    noted = json.loads(page.with_name("metrics.json").read_text())["missing"]
    names = "points/a points/b compress/a compress/b convert/c solve/a solve/b"
    assert {one["artefact"] for one in noted} == set(names.split())
    clear_page("tiny")
    assert not page.parent.exists()


def test_a_run_that_would_have_made_no_report_leaves_no_page(graph, capsys):
    graph.jobs.pop()
    leave_page("tiny", SPEC, graph, graph.failed)
    assert not capsys.readouterr().err
    assert not Path("results/tiny/unfinished").exists()


def test_a_run_of_chosen_targets_says_what_makes_the_page(graph, capsys):
    tell_how_to_get_the_page("tiny", graph)
    assert not capsys.readouterr().err
    graph.jobs.pop()
    tell_how_to_get_the_page("tiny", graph)
    (line,) = capsys.readouterr().err.splitlines()
    assert "not asked for the page; the same command without targets" in line
    assert line.endswith("makes it: results/tiny/report/index.html")


def test_a_page_that_cannot_be_made_is_a_warning(graph, capsys):
    graph.jobs[0].output = ["results/tiny/points/gone/manifest.json"]
    leave_page("tiny", SPEC, graph, graph.failed)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "warning: no page shows what is there: error: results/tiny/points/a/manifest.json: no such"
    )
