"""Snakemake's logger `parsimony`: a live view where there is a terminal, and Snakemake's own lines everywhere else."""

import os
import sys
import time
from logging import WARNING, LogRecord
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

if TYPE_CHECKING:
    from rich.live import Live

    from pipeline.operations.live.view import View

# Where the output of local jobs goes beside their logs; see shell.prefix in workflow/rules/common.smk.
SCREEN = "PARSIMONY_SCREEN"
# Snakemake starts this module with every job: all that is heavy waits until there is a terminal to draw on.


class LogHandler(LogHandlerBase):
    """Draws the study's progress; prints errors and warnings above it."""

    live: "Live | None" = None
    view: "View | None" = None

    def __post_init__(self) -> None:
        """Begin to draw if there is a terminal, and nothing was asked for that wants all lines."""
        asked = self.common_settings
        plain = asked.dryrun or asked.verbose or asked.printshellcmds or asked.debug_dag
        if (
            not sys.stderr.isatty()
            or os.environ.get("TERM") == "dumb"
            or plain
            or "all" in _words(asked.quiet)
        ):
            return
        from rich.console import Console
        from rich.live import Live

        from pipeline.operations.live.state import Progress
        from pipeline.operations.live.view import View

        self.view = View(Progress(begin=time.monotonic()))
        self.live = Live(
            self.view,
            console=Console(stderr=True),
            refresh_per_second=2,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def emit(self, record: LogRecord) -> None:
        """Take one event in."""
        if self.live is None or self.view is None:
            return
        try:
            self._take(record)
        except Exception:
            self.handleError(record)

    def _take(self, record: LogRecord) -> None:
        assert self.view is not None
        event, told = getattr(record, "event", None), record.__dict__
        progress, now = self.view.progress, time.monotonic()
        if event == LogEvent.RESOURCES_INFO:
            progress.remote = progress.remote or "nodes" in told
        elif event == LogEvent.RUN_INFO:
            progress.plan(told["stats"])
            self._begin()
        elif event == LogEvent.JOB_STARTED:
            progress.start(told["jobs"], now)
        elif event == LogEvent.JOB_INFO:
            self._describe(told)
        elif event == LogEvent.JOB_FINISHED:
            progress.finish(told["job_id"], now)
        elif event == LogEvent.JOB_ERROR:
            progress.fail(told["jobid"])
            self._say(self._failure(told))
        elif event in (LogEvent.GROUP_ERROR, LogEvent.ERROR) or record.levelno >= WARNING:
            self._say(self.format(record))
        elif event is None and "Nothing to be done" in str(record.msg):
            self._say(str(record.msg))

    def _begin(self) -> None:
        """Draw from now on, and keep the output of local jobs off the terminal: it goes to their logs."""
        assert self.live is not None
        if not self.live.is_started:
            os.environ[SCREEN] = os.devnull
            self.live.start()

    def _describe(self, told: dict[str, Any]) -> None:
        assert self.view is not None
        progress = self.view.progress
        known = progress.study
        progress.describe(
            told["jobid"],
            told["rule_name"],
            told["wildcards"] or {},
            told["log"] or [],
            local=bool(told["local"]),
        )
        if progress.study != known:
            from pipeline.operations.live.remaining import past_seconds

            self.view.past = past_seconds(Path("results") / "history" / f"{progress.study}.json")

    @staticmethod
    def _failure(told: dict[str, Any]) -> str:
        """A failed job: which, where its log is, and how that ends."""
        from pipeline.operations.live.tail import last_lines

        logs = [str(log) for log in told["log"] or []]
        lines = [line for log in logs[:1] for line in last_lines(Path(log), 5)]
        where = f" (log {', '.join(logs)})" if logs else ""
        return "\n".join(
            [f"Error in rule {told['rule_name']}, job {told['jobid']}{where}", *(f"    {x}" for x in lines)]
        )

    def _say(self, text: str) -> None:
        assert self.live is not None
        if text and text != "None":
            from rich.text import Text

            self.live.console.print(Text(text))

    def close(self) -> None:
        """Draw the last state, and leave it on the terminal."""
        if self.live is not None and self.live.is_started:
            self.live.stop()
            os.environ.pop(SCREEN, None)
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """Whether this takes the place of Snakemake's own lines."""
        return self.live is not None

    @property
    def writes_to_file(self) -> bool:
        """Snakemake keeps its log file by itself."""
        return False

    @property
    def has_filter(self) -> bool:
        """What is drawn is chosen here, however quiet Snakemake's lines were asked to be."""
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
