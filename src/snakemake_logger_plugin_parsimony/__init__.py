"""Snakemake's logger `parsimony`: a live view where there is a terminal, and a line for each job everywhere else.

Snakemake's own lines stay where they are asked for (`--dry-run`, `--verbose`, `--printshellcmds`, `--debug-dag`,
`--quiet all`), in jobs, and in its log file in any case.
"""

import os
import sys
import time
from logging import ERROR, WARNING, LogRecord
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

if TYPE_CHECKING:
    from rich.live import Live

    from pipeline.operations.live.state import JobProgress
    from pipeline.operations.live.view import LiveView

# Where the output of local jobs goes beside their logs; see shell.prefix in workflow/rules/common.smk.
SCREEN = "PARSIMONY_SCREEN"
# Snakemake starts this module with every job: all that is heavy waits until it is known that this is none.
# What Snakemake says of itself before it knows what is to be done.
PREFACE = ("Using workflow specific profile", "Assuming unrestricted shared", "Building DAG", "Using shell")
INTERRUPT = "Terminating processes on user request"
RETRY = "Trying to restart job"
# A traceback of Slurm's executor, which pipeline.runtime.snakemake_patches tells in one line.
REFUSED = "Exception in run_job"


def _cache_where_it_can_be_written() -> None:
    """Let Snakemake keep its cache in the checkout where the home folder can't be written to.

    Snakemake makes the cache before it reads any rule, and would end with a traceback. It loads this module earlier.
    """
    home = os.environ.get("HOME") or os.path.expanduser("~")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path(home, ".cache")) / "snakemake"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        writable = os.access(cache, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        os.environ["XDG_CACHE_HOME"] = str(Path(".snakemake", "cache").absolute())


_cache_where_it_can_be_written()


class LogHandler(LogHandlerBase):
    """Tells how far the study is; prints errors and warnings in between."""

    progress: "JobProgress | None" = None
    live: "Live | None" = None
    view: "LiveView | None" = None
    interrupted = False

    def __post_init__(self) -> None:
        """Begin, unless this is a job's own Snakemake or something was asked for that wants all lines."""
        asked = self.common_settings
        plain = asked.dryrun or asked.verbose or asked.printshellcmds or asked.debug_dag
        if "--mode" in sys.argv or plain or "all" in _words(asked.quiet):
            return
        # Not at the top of this file: a job's own Snakemake loads it too, and shows no progress.
        from pipeline.operations.live.state import JobProgress

        self.progress = JobProgress(begin=time.monotonic())
        if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            return
        from rich.console import Console
        from rich.live import Live

        from pipeline.operations.live.view import LiveView

        self.view = LiveView(self.progress)
        self.live = Live(
            self.view,
            console=Console(stderr=True),
            refresh_per_second=2,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def emit(self, record: LogRecord) -> None:
        """Take one event in."""
        if self.progress is None:
            return
        try:
            self._take(record, self.progress)
        except Exception:
            self.handleError(record)

    def _take(self, record: LogRecord, progress: "JobProgress") -> None:
        event, told, said = getattr(record, "event", None), record.__dict__, str(record.msg)
        now = time.monotonic()
        if event == LogEvent.RESOURCES_INFO:
            progress.remote = progress.remote or "nodes" in told
        elif event == LogEvent.RUN_INFO:
            progress.plan(told["stats"])
            self._begin(progress)
        elif event == LogEvent.JOB_STARTED:
            progress.start(told["jobs"], now)
        elif event == LogEvent.JOB_INFO:
            self._describe(told, progress)
        elif event == LogEvent.JOB_FINISHED:
            self._finish(told["job_id"], progress, now)
        elif event is None and said.startswith(INTERRUPT):
            self.interrupted = True
        elif record.levelno >= ERROR and self._is_interrupted():
            # Jobs end because they were asked to: the closing line says so once.
            progress.jobs.pop(told.get("jobid", -1), None)
        elif event == LogEvent.JOB_ERROR:
            progress.fail(told["jobid"])
            self._say(self._failure(told))
        elif said.startswith(REFUSED):
            return
        elif event in (LogEvent.GROUP_ERROR, LogEvent.ERROR) or record.levelno >= WARNING:
            self._say(self.format(record))
        elif event is None and (said.startswith(RETRY) or not (progress.planned or said.startswith(PREFACE))):
            self._say(said)

    def _is_interrupted(self) -> bool:
        """Whether jobs end because they were asked to. They may have, before Snakemake says that it ends them."""
        if not self.interrupted:
            from pipeline.operations.main_process import was_interrupted

            self.interrupted = was_interrupted()
        return self.interrupted

    def _begin(self, progress: "JobProgress") -> None:
        """Tell what is planned; keep the output of local jobs off the screen, since it goes to their logs."""
        if not progress.remote:
            os.environ[SCREEN] = os.devnull
        if self.live is None:
            from pipeline.operations.live.lines import planned

            self._say(planned(progress))
        elif not self.live.is_started:
            self.live.start()

    def _describe(self, told: dict[str, Any], progress: "JobProgress") -> None:
        known = progress.study
        progress.describe(
            told["jobid"],
            told["rule_name"],
            told["wildcards"] or {},
            told["log"] or [],
            local=bool(told["local"]),
        )
        if self.view is None:
            from pipeline.operations.live.lines import started

            self._say(started(progress, told["jobid"]))
        elif progress.study != known:
            from pipeline.operations.live.state import past_seconds

            for study in progress.studies:
                self.view.past |= past_seconds(Path("results") / "history" / f"{study}.json")

    def _finish(self, number: int, progress: "JobProgress", now: float) -> None:
        progress.finish(number, now)
        if self.view is None:
            from pipeline.operations.live.lines import finished

            self._say(finished(progress, number, now))

    def _failure(self, told: dict[str, Any]) -> str:
        """A failed job: which, where its log is, and how that ends."""
        from pipeline.operations.live.tail import last_lines, refusal

        logs = [str(log) for log in told["log"] or []]
        n_lines = 5 if self.live is not None else 50
        refused = [line for log in logs[:1] if (line := refusal(Path(log)))]
        lines = refused or [line for log in logs[:1] for line in last_lines(Path(log), n_lines)]
        where = f" (log {', '.join(logs)})" if logs else ""
        return "\n".join(
            [f"Error in rule {told['rule_name']}, job {told['jobid']}{where}", *(f"    {x}" for x in lines)]
        )

    def _say(self, text: str) -> None:
        if not text or text == "None":
            return
        if self.live is not None and self.live.is_started:
            from rich.text import Text

            self.live.console.print(Text(text))
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Draw the last state and leave it on the terminal; say how it ended where that is not to be seen."""
        if self.progress is not None and self.progress.planned:
            from pipeline.operations.live.lines import closing

            drawn = self.live is not None
            if self.live is not None:
                self.live.stop()
            text = closing(self.progress, time.monotonic(), interrupted=self.interrupted, drawn=drawn)
            self.progress = None
            os.environ.pop(SCREEN, None)
            if text:
                print(text, file=sys.stderr, flush=True)
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """Whether this takes the place of Snakemake's own lines."""
        return self.progress is not None

    @property
    def writes_to_file(self) -> bool:
        """Snakemake keeps its log file by itself."""
        return False

    @property
    def has_filter(self) -> bool:
        """What is told is chosen here, however quiet Snakemake's lines were asked to be."""
        return True

    @property
    def has_formatter(self) -> bool:
        """Errors look as Snakemake writes them."""
        return False

    @property
    def needs_rulegraph(self) -> bool:
        """Counts are enough."""
        return False


def _words(quiet: Any) -> set[str]:
    return {str(getattr(one, "name", one)).lower() for one in quiet or ()}
