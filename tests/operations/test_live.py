"""The live view: what it makes of Snakemake's events, and that it is silent without a terminal."""

import io
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console, Group
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.tests import MockOutputSettings

from pipeline.operations import main_process
from pipeline.operations.live import lines, state
from pipeline.operations.live.state import JobProgress, Phase, past_seconds, seconds_left
from pipeline.operations.live.tail import last_lines, newest, refusal
from pipeline.operations.live.view import draw
from snakemake_logger_plugin_parsimony import SCREEN, LogHandler


@pytest.fixture
def progress(tmp_path):
    """Five jobs: one done, one running with a log, one failed, two to come."""
    log = tmp_path / "log.txt"
    log.write_text("kfac, seed 0: 96/160 steps, 8.9 steps/s, 7 s left  loss 0.842\n")
    progress = JobProgress(begin=0.0)
    progress.plan({"dataset": 1, "train": 3, "solve": 1, "all": 1, "total": 6})
    progress.start([1, 2, 3], 0.0)
    progress.describe(1, "dataset", {"study": "s"}, [], local=False)
    progress.describe(2, "train", {"study": "s", "run": "kfac", "seed": "0"}, [str(log)], local=False)
    progress.describe(3, "solve", {"study": "s", "matrix": "m"}, [], local=False)
    progress.finish(1, 4.0)
    progress.fail(3)
    return progress


def drawn(progress, past=None, now=10.0, rows=20, width=100):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(Group(*draw(progress, past or {}, now, rows)))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_jobs_are_counted_and_running_ones_tell_what_they_said_last(progress):
    head, bar, row = drawn(progress)
    assert head.startswith("s  1 of 5 jobs done, 1 running, 1 failed  10 s, about ")
    # Without colors, the part that is done: a fifth of the width.
    assert bar == 20 * "━"
    assert row.split() == [
        "train", "kfac", "0", "10", "s", "96/160", "steps,", "8.9", "steps/s,", "7", "s", "left", "loss", "0.842",
    ]  # fmt: skip


def test_jobs_of_several_studies_are_told_apart(progress):
    progress.describe(4, "train", {"study": "beside", "run": "kfac", "seed": "0"}, [], local=False)
    head, _, *rows = drawn(progress)
    assert head.startswith("s and beside  1 of 5 jobs done")
    assert [row.split()[:4] for row in rows] == [
        ["train", "s:", "kfac", "0"],
        ["train", "beside:", "kfac", "0"],
    ]
    assert lines.started(progress, 4).endswith("  train beside: kfac 0: started")
    assert lines.closing(progress, 9.0, interrupted=True, drawn=False).startswith(
        "s and beside: 1 of 5 jobs done"
    )


def test_a_failed_job_that_is_started_again_is_running(progress):
    progress.start([3], 10.0)
    assert [job.rule for job in progress.in_phase(Phase.RUNNING)] == ["train", "solve"]
    progress.finish(3, 12.0)
    progress.finish(3, 13.0)
    assert progress.spent["solve"] == [2.0]


def test_a_job_on_a_cluster_waits_until_its_log_shows_life(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("of a former run")
    os.utime(log, (2e9, 2e9))  # a node whose clock is ahead
    progress = JobProgress(begin=0.0, remote=True)
    progress.plan({"train": 1, "spec": 1})
    progress.start([1, 2], 0.0)
    progress.describe(1, "train", {}, [str(log)], local=False)
    progress.describe(2, "spec", {}, [], local=True)
    progress.look(5.0)
    assert (progress.jobs[1].phase, progress.jobs[2].phase) == (Phase.WAITING, Phase.RUNNING)
    assert drawn(progress)[-1] == "waiting: 1 train"
    log.write_text("starts")
    progress.look(11.0)
    assert (progress.jobs[1].phase, progress.jobs[1].since) == (Phase.RUNNING, 11.0)


@pytest.mark.parametrize("remote", [False, True])
def test_logs_of_a_clusters_jobs_are_looked_at_every_few_seconds_and_local_ones_always(
    tmp_path, monkeypatch, remote
):
    log = tmp_path / "log.txt"
    log.write_text("")
    progress = JobProgress(begin=0.0, remote=remote)
    numbers = range(100)
    progress.start(numbers, 0.0)
    for number in numbers:
        progress.describe(number, "train", {}, [str(log)], local=False)
    stats, reads = [], []
    monkeypatch.setattr(state, "stamp_of", lambda path: stats.append(path) or (0, log.stat().st_mtime_ns))
    monkeypatch.setattr(state, "newest", lambda path, _name: reads.append(path) or "")
    for tick in range(20):  # ten seconds of two frames each
        progress.look(tick / 2)
        for job in progress.jobs.values():
            progress.last_said(job, tick / 2)
    assert len(stats) == (2 * 100 if remote else 0)
    assert len(reads) == (2 if remote else 20) * 100


def test_rows_beyond_the_terminal_are_counted(progress):
    progress.start(range(10, 30), 5.0)
    for number in range(10, 30):
        progress.describe(number, "train", {"run": str(number)}, [], local=False)
    lines = drawn(progress, rows=4)
    assert len(lines) == 2 + 4 + 1
    assert lines[-1] == "and 17 more"


def test_time_left_follows_finished_jobs_and_how_many_run_at_a_time():
    progress = JobProgress(begin=0.0)
    progress.plan({"train": 10})
    assert seconds_left(progress, {}, 0.0) is None
    assert seconds_left(progress, {"train": 6.0}, 0.0) == 60.0
    progress.start([1, 2], 0.0)
    for number in (1, 2):
        progress.describe(number, "train", {}, [], local=False)
        progress.finish(number, 4.0)
    # Eight more of four seconds each, two at a time.
    assert seconds_left(progress, {"train": 6.0}, 4.0) == pytest.approx(16.0)


def test_past_runs_tell_what_rules_take(tmp_path):
    path = tmp_path / "s.json"
    assert past_seconds(path) == {}
    runs = [("solve/a", {"job_seconds": 2.0}), ("solve/b", {"job_seconds": 4.0}), ("x", {})]
    path.write_text(json.dumps([{"artefact": artefact, "figures": figures} for artefact, figures in runs]))
    assert past_seconds(path) == {"solve": 3.0}
    path.write_text("[1]")
    assert past_seconds(path) == {}


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n \n", []),
        (b"one\ntwo\n\n", ["one", "two"]),
        (b"old\rnew\n", ["new"]),
        (b"\x1b[31mred\x07\n", ["[31mred"]),
        (b"\xff\n", ["�"]),
        (b"x" * 100_000 + b"\nend", ["x" * 8188, "end"]),
    ],
)
def test_the_end_of_a_log_is_read_without_what_would_disturb_a_terminal(tmp_path, content, lines):
    (tmp_path / "log").write_bytes(content)
    assert last_lines(tmp_path / "log", 2) == lines


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("kfac, seed 0: 9/16 steps", "9/16 steps"),
        ("compress airports: 2700 rows", "compress airports: 2700 rows"),
        ("iteration 2, relative residual 7e-09", "iteration 2, relative residual 7e-09"),
        (": odd", ": odd"),
    ],
)
def test_a_label_that_repeats_the_jobs_name_is_left_out(tmp_path, line, shown):
    (tmp_path / "log").write_text(line)
    assert newest(tmp_path / "log", "kfac 0") == shown


def test_a_log_that_is_not_there_says_nothing(tmp_path):
    assert newest(tmp_path / "gone") == newest(None) == refusal(tmp_path / "gone") == ""


def test_of_a_job_that_refused_to_go_on_its_one_line_is_shown(tmp_path, asked, capsys):
    log = tmp_path / "log"
    log.write_text("3 of 9 blocks\nerror: a.csv: row 2: wanted a number\n= BAD TERMINATION\n")
    failed = event(LogEvent.JOB_ERROR, jobid=1, rule_name="points", log=[str(log)])
    lines = lines_of(LogHandler(asked, None), [*EVENTS[:3], failed], capsys)
    place = lines.index(f"Error in rule points, job 1 (log {log})")
    assert lines[place + 1] == "    error: a.csv: row 2: wanted a number"
    assert not any("BAD TERMINATION" in line or "blocks" in line for line in lines[place:])


def event(kind, level=logging.INFO, msg=None, **told):
    record = logging.LogRecord("snakemake", level, "", 0, msg, (), None)
    for key, value in {"event": kind, **told}.items():
        setattr(record, key, value)
    return record


EVENTS = [
    event(LogEvent.RUN_INFO, stats={"train": 2, "all": 1, "total": 3}),
    event(LogEvent.JOB_STARTED, jobs=[1, 2]),
    event(
        LogEvent.JOB_INFO,
        jobid=1,
        rule_name="train",
        wildcards={"study": "s", "run": "a"},
        log=[],
        local=False,
    ),
    event(
        LogEvent.JOB_INFO,
        jobid=2,
        rule_name="train",
        wildcards={"study": "s", "run": "b"},
        log=[],
        local=False,
    ),
    event(LogEvent.JOB_FINISHED, job_id=1),
    event(LogEvent.JOB_ERROR, logging.ERROR, jobid=2, rule_name="train", log=["gone.txt"]),
    event(LogEvent.PROGRESS, done=1, total=3),
    event(LogEvent.ERROR, logging.ERROR, "something broke", exception="X"),
    event(None, logging.WARNING, "[red]beware"),
]


CLOSING = "1 of 2 jobs done, 1 failed (train b). Correct what is said above, then run the same command again."


@pytest.fixture
def asked(monkeypatch, capsys):
    """What Snakemake asks of a logger when nobody asked for anything; no terminal."""
    monkeypatch.delenv(SCREEN, raising=False)
    asked = MockOutputSettings()
    asked.printshellcmds = False
    return asked


def lines_of(handler, records, capsys):
    """What it says, without the time of day, and as if each job had taken no time."""
    handler.setFormatter(logging.Formatter("%(message)s"))
    for record in records:
        handler.emit(record)
    handler.close()
    assert SCREEN not in os.environ
    said = re.sub(r"^\d\d:\d\d:\d\d  ", "", capsys.readouterr().err, flags=re.MULTILINE)
    return re.sub(r"\bin \d+ s\b", "in 0 s", said).splitlines()


def test_without_a_terminal_each_job_has_a_line_when_it_starts_and_one_when_it_ends(asked, capsys):
    handler = LogHandler(asked, None)
    assert handler.writes_to_stream
    assert lines_of(handler, EVENTS, capsys) == [
        "2 jobs to do: 2 train",
        "train a: started",
        "train b: started",
        "train a: done in 0 s, 1 of 2 jobs",
        "Error in rule train, job 2 (log gone.txt)",
        "something broke",
        "[red]beware",
        f"s: {CLOSING}",
    ]


def test_a_job_that_is_done_tells_what_it_said_last_and_a_frozen_spec_nothing(asked, capsys, tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("first\na: accuracy 0.9\n")
    told = {"wildcards": {"study": "s", "run": "a"}, "log": [str(log)], "local": True}
    said = lines_of(
        LogHandler(asked, None),
        [
            event(None, msg="Building DAG of jobs..."),
            event(LogEvent.RUN_INFO, stats={"train": 1, "freeze_spec": 1, "all": 1, "total": 3}),
            event(None, msg="Select jobs to execute..."),
            event(LogEvent.JOB_STARTED, jobs=[1, 2]),
            event(LogEvent.JOB_INFO, jobid=1, rule_name="freeze_spec", **told),
            event(LogEvent.JOB_INFO, jobid=2, rule_name="train", **told),
            event(LogEvent.JOB_FINISHED, job_id=1),
            event(None, msg="Trying to restart job 2."),
            event(LogEvent.JOB_FINISHED, job_id=2),
            event(None, msg="Complete log(s): x"),
        ],
        capsys,
    )
    assert said == [
        "2 jobs to do: 1 freeze_spec, 1 train",
        "train a: started",
        "Trying to restart job 2.",
        "train a: done in 0 s, 2 of 2 jobs; accuracy 0.9",
        "s: 2 of 2 jobs done in 0 s",
    ]


def test_jobs_of_a_cluster_are_submitted_and_keep_what_they_say_in_its_logs(asked, capsys):
    handler = LogHandler(asked, None)
    handler.emit(event(LogEvent.RESOURCES_INFO, nodes=100))
    handler.emit(EVENTS[0])
    assert SCREEN not in os.environ
    assert lines_of(handler, EVENTS[1:3], capsys)[1] == "train a: submitted"


def test_a_run_of_no_study_has_no_name_at_its_end(asked, capsys):
    done = event(LogEvent.JOB_FINISHED, job_id=1)
    records = [event(LogEvent.RUN_INFO, stats={"clean": 1, "total": 1}), EVENTS[1], done]
    assert lines_of(LogHandler(asked, None), records, capsys)[-1] == "1 of 1 job done in 0 s"


@pytest.mark.parametrize("snakemake_says_so_first", [True, False])
def test_an_interrupt_is_one_line_whatever_the_jobs_die_of(
    asked, capsys, monkeypatch, snakemake_says_so_first
):
    interrupt = event(None, msg="Terminating processes on user request, this might take some time.")
    monkeypatch.setattr(main_process, "_interruptions", [] if snakemake_says_so_first else [signal.SIGINT])
    failures = [
        event(LogEvent.JOB_ERROR, logging.ERROR, jobid=2, rule_name="train", log=["gone.txt"]),
        event(LogEvent.ERROR, logging.ERROR, "CalledProcessError: exit 75", exception="X"),
    ]
    said = [interrupt, *failures] if snakemake_says_so_first else [*failures, interrupt]
    assert lines_of(LogHandler(asked, None), [*EVENTS[:5], *said], capsys) == [
        "2 jobs to do: 2 train",
        "train a: started",
        "train b: started",
        "train a: done in 0 s, 1 of 2 jobs",
        "s: 1 of 2 jobs done when it was interrupted. Run the same command again to go on; trainings go on from "
        "their last checkpoint.",
    ]


def test_what_is_said_before_anything_is_planned_is_kept(asked, capsys):
    for said in ("Nothing to be done (all requested files are present and up to date).", "Report created: x"):
        assert lines_of(LogHandler(asked, None), [event(None, msg=said)], capsys) == [said]


@pytest.mark.parametrize("option", ["dryrun", "verbose", "printshellcmds", "debug_dag", "quiet", "mode"])
def test_snakemakes_own_lines_stay_where_they_are_asked_for_and_inside_of_a_job(
    asked, capsys, monkeypatch, option
):
    if option == "mode":
        monkeypatch.setattr(sys, "argv", [*sys.argv, "--mode", "remote"])
    else:
        setattr(asked, option, ["all"] if option == "quiet" else True)
    handler = LogHandler(asked, None)
    assert not handler.writes_to_stream
    for record in EVENTS:
        handler.emit(record)
    handler.close()
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    assert SCREEN not in os.environ


def test_on_a_terminal_every_event_is_drawn_and_errors_stay(monkeypatch):
    """In a process of its own, with a pseudo-terminal for its standard error."""
    script = (
        "import sys, pathlib\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_live import EVENTS, LogHandler, MockOutputSettings, SCREEN\n"
        "import os\n"
        "asked = MockOutputSettings()\n"
        "asked.printshellcmds = False\n"
        "handler = LogHandler(asked, None)\n"
        "assert handler.writes_to_stream\n"
        "for record in EVENTS:\n"
        "    handler.emit(record)\n"
        "assert os.environ[SCREEN] == os.devnull\n"
        "handler.close()\n"
        "assert SCREEN not in os.environ\n"
    )
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30", "NO_COLOR": "1"}
    process = subprocess.Popen([sys.executable, "-c", script], stderr=theirs, env=environment)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:
        pass  # what Linux answers once the other end is closed
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode())
    assert process.wait(timeout=60) == 0, text
    assert "Error in rule train, job 2 (log gone.txt)" in text
    assert "something broke" in text
    assert "[red]beware" in text
    assert "s  1 of 2 jobs done, 0 running, 1 failed" in text.splitlines()[-3]
    assert text.splitlines()[-1] == f"s: {CLOSING}"
