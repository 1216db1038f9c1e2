"""Progress where there is no terminal: a line when a job starts and when it is done, and one at the end."""

import time

from pipeline.operations.live.state import Job, JobProgress, Phase
from pipeline.operations.live.tail import newest
from pipeline.operations.text import duration
from pipeline.report.formatting import shorten
from pipeline.runtime.words import counted

# Letters shown of a job's last line: enough for a result, and too few for a row of a table.
LONGEST = 110


def planned(progress: JobProgress) -> str:
    """Tell how many jobs of each rule there are to do."""
    if not progress.total:
        return ""
    parts = ", ".join(f"{n} {rule}" for rule, n in sorted(progress.planned.items()))
    return f"{counted(progress.total, 'job')} to do: {parts}"


def started(progress: JobProgress, number: int) -> str:
    """Tell that a job runs or was submitted to the cluster; return an empty text for a small one."""
    job = progress.jobs.get(number)
    if job is None or job.small:
        return ""
    return f"{_now()}  {_name(progress, job)}: {'submitted' if job.phase is Phase.WAITING else 'started'}"


def finished(progress: JobProgress, number: int, now: float) -> str:
    """Tell that a job is done, how long it took, how many are done, and what it printed last."""
    job = progress.jobs.get(number)
    if job is None or job.small:
        return ""
    count = f"{progress.count(Phase.DONE)} of {counted(progress.total, 'job')}"
    said = shorten(newest(job.log, job.name), LONGEST)
    return f"{_now()}  {_name(progress, job)}: done in {duration(now - job.since)}, {count}" + (
        f"; {said}" if said else ""
    )


def closing(progress: JobProgress, now: float, *, interrupted: bool, drawn: bool) -> str:
    """Tell how a run ended and what to do next; a good end whose last state is `drawn` needs no words."""
    of = f"{progress.study}: " if progress.study else ""
    done = f"{of}{progress.count(Phase.DONE)} of {counted(progress.total, 'job')} done"
    if interrupted:
        return (
            f"{done} when it was interrupted. Run the same command again to go on; trainings go on from their "
            "last checkpoint."
        )
    failed = progress.in_phase(Phase.FAILED)
    if failed:
        names = ", ".join(_name(progress, job) for job in failed[:5]) + (", ..." if len(failed) > 5 else "")
        return f"{done}, {len(failed)} failed ({names}). Correct what is said above, then run the same command again."
    whole = progress.count(Phase.DONE) >= progress.total  # otherwise another error ended it and was printed
    return f"{done} in {duration(now - progress.begin)}" if whole and not drawn else ""


def _name(progress: JobProgress, job: Job) -> str:
    return f"{job.rule} {progress.called(job)}".rstrip()


def _now() -> str:
    return time.strftime("%H:%M:%S")
