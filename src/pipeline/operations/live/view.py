"""The look of progress: a line of counts, a bar, and a row for every running job."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.operations.live.state import JobProgress, Phase, seconds_left
from pipeline.operations.text import duration


class LiveView:
    """Progress for a terminal, drawn anew with every refresh."""

    def __init__(self, progress: JobProgress, clock: Callable[[], float] = time.monotonic) -> None:
        self.progress, self.clock = progress, clock
        self.past: dict[str, float] = {}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = self.clock()
        self.progress.look(now)
        rows = max(options.max_height - 5, 1)
        yield Group(*draw(self.progress, self.past, now, rows))


def draw(
    progress: JobProgress, past: Mapping[str, float], now: float, n_rows: int
) -> list[Text | Table | Padding]:
    """Return the parts of the view, with at most `n_rows` rows of jobs."""
    done, running = progress.count(Phase.DONE), progress.in_phase(Phase.RUNNING)
    waiting = Counter(job.rule for job in progress.in_phase(Phase.WAITING))
    failed = progress.count(Phase.FAILED)
    total = max(progress.total, done)
    head = Text()
    head.append(f"{progress.study or 'study'}  ", style="bold")
    head.append(f"{done} of {total} jobs done, {len(running)} running")
    if waiting:
        head.append(f", {sum(waiting.values())} waiting")
    if failed:
        head.append(f", {failed} failed", style="bold red")
    head.append(f"  {duration(now - progress.begin)}")
    left = seconds_left(progress, past, now) if done < total else None
    if left is not None:
        head.append(f", about {duration(left)} left", style="cyan")
    # In a padding, since a bar alone does not end its line.
    bar = Padding(ProgressBar(total=max(total, 1), completed=done), 0)
    parts: list[Text | Table | Padding] = [head, bar]
    if running:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), expand=True)
        table.add_column(no_wrap=True, style="cyan")
        table.add_column(no_wrap=True, max_width=36, overflow="ellipsis")
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
        for job in running[:n_rows]:
            # A plain text, because a log may hold characters that look like markup.
            told = Text(progress.last_said(job, now))
            table.add_row(job.rule, Text(progress.called(job)), duration(now - job.since), told)
        parts.append(table)
    if len(running) > n_rows:
        parts.append(Text(f"and {len(running) - n_rows} more", style="dim"))
    if waiting:
        parts.append(Text(f"waiting: {', '.join(f'{n} {rule}' for rule, n in waiting.items())}", style="dim"))
    return parts
