"""The time that a study will still take."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from pipeline.operations.live.state import JobProgress, Phase


def seconds_left(progress: JobProgress, past: Mapping[str, float], now: float) -> float | None:
    """Estimate the seconds until all jobs are done; None while no job's duration is known.

    A job is expected to take as long as the finished jobs of its rule, in this run or else in past ones. For a rule
    without finished jobs, the average of all rules counts. The number of parallel jobs is the average so far.
    """
    known = dict(past) | {rule: fmean(seconds) for rule, seconds in progress.spent.items()}
    if not known:
        return None
    usual = fmean(known.values())
    running = progress.in_phase(Phase.RUNNING)
    started = [job.rule for job in progress.jobs.values() if job.phase in (Phase.RUNNING, Phase.DONE)]
    work = sum(
        known.get(rule, usual) * max(n - started.count(rule), 0) for rule, n in progress.planned.items()
    )
    work += sum(max(known.get(job.rule, usual) - (now - job.since), 0.0) for job in running)
    busy = sum(sum(seconds) for seconds in progress.spent.values()) + sum(now - job.since for job in running)
    at_a_time = max(busy / max(now - progress.begin, 1.0), 1.0)
    return work / at_a_time


def past_seconds(snapshot: Path) -> dict[str, float]:
    """Read from the history's snapshot how long a job of each rule took; return nothing if there is no snapshot."""
    seconds: dict[str, list[float]] = {}
    try:
        for entry in json.loads(snapshot.read_text(encoding="utf-8")):
            if "job_seconds" in entry["figures"]:
                seconds.setdefault(entry["artefact"].split("/")[0], []).append(
                    entry["figures"]["job_seconds"]
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {rule: fmean(values) for rule, values in seconds.items()}
