"""The state of a study's jobs, updated event by event, and the time that they will still take."""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from statistics import fmean

from pipeline.operations.live.tail import newest

Stamp = tuple[int, int] | None

# Between two looks at the logs of a cluster's jobs: they may be many, and their file system is shared by all nodes.
SECONDS_BETWEEN_LOOKS = 5.0


class Phase(Enum):
    """Where a job is. It waits between its submission and the first sign of life in its log."""

    WAITING = auto()
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()


@dataclass
class Job:
    """One job: its last line in the log, and when it was last started, submitted, or seen to begin.

    A change of the log's `stamp`, its size and time, since submission is a sign of life. Clocks of nodes may differ, so
    no time of a file is compared with this machine's clock.
    """

    rule: str = ""
    study: str = ""
    name: str = ""
    log: Path | None = None
    phase: Phase = Phase.RUNNING
    stamp: Stamp = None
    since: float = field(default_factory=time.monotonic)
    said: str = ""
    heard: float = -math.inf

    @property
    def small(self) -> bool:
        """Whether the job belongs to a rule with very many jobs that are too short to be shown."""
        return self.rule == "freeze_spec"


@dataclass
class JobProgress:
    """All jobs of a run: how many of each rule are planned, and how many seconds each finished one took.

    The run is `remote` if its jobs go to a cluster; `looked` is when the logs of waiting jobs were read last.
    """

    begin: float
    remote: bool = False
    studies: list[str] = field(default_factory=list)
    planned: Counter[str] = field(default_factory=Counter)
    jobs: dict[int, Job] = field(default_factory=dict)
    spent: dict[str, list[float]] = field(default_factory=dict)
    looked: float = -math.inf

    @property
    def study(self) -> str:
        """The name of the run: its study, or the studies that it computes."""
        return " and ".join(self.studies)

    def called(self, job: Job) -> str:
        """The name of a job among others: with its study, where there are several."""
        return ": ".join(filter(None, (job.study, job.name))) if len(self.studies) > 1 else job.name

    @property
    def total(self) -> int:
        return sum(self.planned.values())

    def count(self, phase: Phase) -> int:
        return sum(job.phase is phase for job in self.jobs.values())

    def in_phase(self, phase: Phase) -> list[Job]:
        """The jobs in a phase, in the order of their start."""
        return sorted((job for job in self.jobs.values() if job.phase is phase), key=lambda job: job.since)

    def plan(self, counts: Mapping[str, int]) -> None:
        """Set the number of jobs of each rule, without the entry "total" and the rule that only requests the others."""
        self.planned = Counter({rule: n for rule, n in counts.items() if rule not in ("total", "all")})

    def start(self, ids: Sequence[int], now: float) -> None:
        """Record that jobs were given to the executor, perhaps again."""
        for number in ids:
            job = self.jobs.setdefault(number, Job())
            job.phase, job.since = Phase.WAITING if self.remote else Phase.RUNNING, now
            job.stamp = stamp_of(job.log)

    def describe(
        self, number: int, rule: str, wildcards: Mapping[str, str], log: Sequence[str], *, local: bool
    ) -> None:
        if rule == "all":
            self.jobs.pop(number, None)
            return
        job = self.jobs.setdefault(number, Job())
        job.rule, job.study = rule, wildcards.get("study", job.study)
        if job.study and job.study not in self.studies:
            self.studies.append(job.study)
        job.name = " ".join(str(value) for key, value in wildcards.items() if key != "study")
        job.log = Path(log[0]) if log else None
        job.stamp = stamp_of(job.log)
        if local:
            job.phase = Phase.RUNNING

    def finish(self, number: int, now: float) -> None:
        job = self.jobs.get(number)
        if job is not None and job.phase is not Phase.DONE:
            job.phase = Phase.DONE
            self.spent.setdefault(job.rule, []).append(now - job.since)

    def fail(self, number: int) -> None:
        """Record that a job failed; it may be started again."""
        if number in self.jobs:
            self.jobs[number].phase = Phase.FAILED

    def look(self, now: float) -> None:
        """Check, every few seconds, which waiting jobs have written to their logs."""
        if now - self.looked < SECONDS_BETWEEN_LOOKS:
            return
        self.looked = now
        for job in self.jobs.values():
            if job.phase is Phase.WAITING and job.log is not None and stamp_of(job.log) != job.stamp:
                job.phase, job.since = Phase.RUNNING, now

    def last_said(self, job: Job, now: float) -> str:
        """Return the last line of a running job's log; on a cluster it is read every few seconds."""
        if not self.remote or now - job.heard >= SECONDS_BETWEEN_LOOKS:
            job.said, job.heard = newest(job.log, job.name), now
        return job.said


def stamp_of(path: Path | None) -> Stamp:
    """Size and time of a file; None if it isn't there."""
    try:
        status = os.stat(path) if path is not None else None
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if status is not None else None


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
