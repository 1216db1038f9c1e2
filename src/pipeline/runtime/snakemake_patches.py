"""Every change that this program makes to private parts of Snakemake and of its executor for Slurm, with its reason.

Options of Snakemake that make no sense for this workflow are refused, each with a replacement.

The changes were written for the versions below. With any other version `check_versions` ends the run with one line,
because the private parts may have changed.
"""

import math
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from pipeline.errors import ConfigError

SNAKEMAKE = ("snakemake", "9.27")
SLURM = ("snakemake-executor-plugin-slurm", "2.8.0")
MODULE = "snakemake_executor_plugin_slurm"
QUOTES = "'\""
#: Seconds before a job is submitted again if the queue had no room for it.
SECONDS_UNTIL_ROOM = 30.0
# Messages of Slurm and its executor while a queue is full or a daemon is down: the same submission succeeds later.
FOR_NOW = re.compile(
    r"MaxSubmitJob|MaxSubmitPerUser|temporarily unable|Unable to contact slurm controller|Socket timed out"
    r"|Unable to test the validity"
)
# Other messages with which Slurm refuses a job, and the change that helps.
ADVICE = (
    ("account", "set slurm_account in the profile to one that `sacctmgr show associations user=$USER` lists"),
    ("partition", "set slurm_partition in the profile to one that `sinfo` lists"),
    ("QOS", "set slurm-qos in the profile, or ask for less time, memory or nodes there"),
    ("node configuration", "ask for less memory, fewer cores or another partition in the profile"),
    ("", "correct the profile's resources of this rule"),
)
# Options that make no sense for this workflow, and what to do instead.
INSTEAD = {
    "--containerize": (
        "writes down rules' conda environments, and all rules here run in one environment, which constraints.txt pins; "
        "build an image with that: docker build -t parsimony . (or apptainer build parsimony.sif parsimony.def)"
    ),
    "--generate-unit-tests": (
        "writes tests that compare outputs byte by byte, and results here hold dates and wall times; "
        "make results again elsewhere and compare them with: python -m pipeline verify FOLDER --against RESULTS"
    ),
}


def check_versions(*, with_slurm: bool) -> None:
    """Raise ConfigError unless Snakemake and its executor have the versions that the changes were written for."""
    for package, wanted in (SNAKEMAKE, *([SLURM] if with_slurm else [])):
        found = version(package)
        if found != wanted and not found.startswith(f"{wanted}."):
            raise ConfigError(
                f"{package} {found}: the changes in pipeline/runtime/snakemake_patches.py are for {wanted}; "
                f"run: pip install '{package}=={wanted if wanted.count('.') > 1 else f'{wanted}.*'}'"
            )


def refuse_unsupported(arguments: Sequence[str]) -> None:
    """Raise ConfigError if an unsupported option is on Snakemake's command line."""
    for word in arguments:
        option = word.partition("=")[0]
        if option in INSTEAD:
            raise ConfigError(f"{option} {INSTEAD[option]}")


def leave_outputs_marked() -> None:
    """Make a job leave its outputs marked as incomplete when it ends.

    The main process records an output's inputs after the job has ended. If the main process is killed before that,
    nobody could tell later whether the output is up to date; because of the mark, it is made again.
    """
    from snakemake.persistence.file import FilePersistence

    FilePersistence._unmark_incomplete = lambda self, key: None


def look_at_most_once_a_second() -> None:
    """Make Snakemake look for jobs to start at most once a second, beside the looks at each end of a job.

    While jobs are ready, each look of Snakemake is followed by another one a second later (the timespan of its limit of
    jobs), and each end of a job begins a chain of its own: after 300 jobs it would look 300 times a second.
    """
    from snakemake.scheduling.job_scheduler import JobScheduler

    JobScheduler._schedule_reevalutation = _look_later


def _look_later(scheduler: Any, delay: float) -> None:
    """Look again after a delay in seconds, unless a look is due by then."""
    due = time.monotonic() + delay
    if getattr(scheduler, "_next_look", math.inf) <= due:
        return

    def look() -> None:
        # Before the look, which may ask for the next one.
        scheduler._next_look = math.inf
        scheduler._open_jobs.release()

    scheduler._next_look = due
    timer = threading.Timer(delay, look)
    timer.daemon = True
    timer.start()


def name_code_changes() -> None:
    """Make Snakemake report that code has changed, where it would report changed parameters.

    Every rule has the digest of its code as a parameter, since Snakemake does not look into an installed package.
    """
    from snakemake.jobs import Reason

    words = Reason.__str__

    def in_words(self: Any) -> str:
        said: str = words(self)
        return said.replace(*_renamed(self)) if self.params_changed else said

    if words.__name__ != in_words.__name__:
        Reason.__str__ = in_words


def _renamed(reason: Any) -> tuple[str, str]:
    """Return Snakemake's text on changed parameters, and the text to replace it."""
    change = reason.params_changed
    said = f"Params have changed since last execution: {change}"
    # A parameter that holds the digest of a stage's code, as Snakemake records it.
    codes = [
        {text for text in texts if re.fullmatch(r"[0-9a-f]{16}", str(text).strip(QUOTES))}
        for texts in (change.only_old, change.only_new)
    ]
    if not (codes[0] and codes[1]):
        return said, said
    (*_, old), (*_, new) = (sorted(code) for code in codes)
    told = (
        f"Code has changed since last execution (digest {old.strip(QUOTES)} before, {new.strip(QUOTES)} now)"
    )
    others = (change.only_old | change.only_new) - codes[0] - codes[1]
    return said, f"{told}; {said}" if others else told


def patch_slurm(executor: Any, refused: list[Any], record: Callable[[bool], None]) -> None:
    """Change how Snakemake's executor for Slurm asks for states and submits jobs.

    Args:
        executor: The main process's executor.
        refused: The list to which jobs that Slurm refuses are added.
        record: Called with True before the first job is submitted, and with False if it was refused and none is left.
    """
    module: Any = sys.modules[MODULE]
    module.query_job_status = _answered(module.query_job_status, executor.run_uuid)
    executor.format_job_exec = _together(executor.format_job_exec)
    _Submissions(executor, refused, record).take_over()


SlurmStates = tuple[dict[str, str] | None, float | None]


def _answered(ask: Callable[..., Any], run: str) -> Callable[..., Any]:
    """Ask for the states of jobs in a way that loses none.

    The executor forgets all its jobs when Slurm's database doesn't answer, and waits for them forever. The controller
    knows them too, for some minutes after they end; when neither answers, the states stay as they were. For a job that
    a person has cancelled, sacct says "CANCELLED by 1000", which the executor takes for a running job.
    """
    squeue = f"squeue --format={shlex.quote('%i|%T')} --states=all --noheader --name {run}"
    told = False

    async def query_job_status(command: str, log: Any) -> SlurmStates:
        nonlocal told
        states, seconds = await ask(command, log)
        if states is None and not told:
            log.warning(
                "Slurm's database does not answer; until it does, the controller is asked for states."
            )
        told = states is None
        if states is None:
            states, seconds = await ask(squeue, log)
        found = {job: state.partition(" by ")[0] for job, state in (states or {}).items()}
        return found, seconds or 0.0

    return query_job_status


def _together(command_of: Callable[[Any], str]) -> Callable[[Any], str]:
    """Run the jobs of a group in parallel on the cores that the group was given.

    In the allocation, the executor starts a Snakemake that runs each job as a step of its own and waits for it, so a
    group of four takes four cores and four times as long (issue 469 of the executor). Snakemake's executor for one
    machine runs the jobs in parallel, and starts no further Snakemake for each.
    """

    def format_job_exec(job: Any) -> str:
        command = command_of(job)
        if not job.is_group():
            return command
        cores = job.resources.get("cpus_per_task") or job.threads
        text, n_executors = re.subn(r"--executor slurm-jobstep --jobs 1\b", "--executor local", command)
        text, n_cores = re.subn(r"--cores \S+", f"--cores {cores}", text)
        if (n_executors, n_cores) != (1, 1):
            raise ConfigError(
                f"the command of a group of jobs is not as expected; please report it: {command}"
            )
        return text

    return format_job_exec


class _Submissions:
    """The submissions of one main process: each ends with a job in the queue or with one line that says why not.

    In its error handler, the executor formats the rule of a job. A group job has no rule: the handler fails, the job is
    never reported, and the main process waits for it forever.
    """

    def __init__(self, executor: Any, refused: list[Any], record: Callable[[bool], None]) -> None:
        self.executor, self.refused, self.record = executor, refused, record
        self.submit: Callable[[Any], None] = executor.run_job
        self.refuse: Callable[[Any, str], None] = executor._report_job_error_threadsafe
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.under_way = 0
        self.accepted = False
        self.told = False
        self.local = threading.local()

    def take_over(self) -> None:
        executor = self.executor
        executor.run_job = self.run_job
        executor._report_job_error_threadsafe = self.note_refusal
        executor.cancel = self._ending(executor.cancel)
        executor.shutdown = self._ending(executor.shutdown)

    def _ending(self, method: Callable[[], None]) -> Callable[[], None]:
        """End waiting submissions before the executor waits for them; a report that can't be written is a warning."""

        def end() -> None:
            self.ended.set()
            try:
                method()
            except (
                OSError
            ) as error:  # of the table of efficiencies at its end, for which a full disk has no room
                self.executor.logger.warning(f"Slurm's figures of this run were not written: {error}")

        return end

    def run_job(self, job: Any) -> None:
        """Submit a job; while the queue is full or a daemon of Slurm is down, try again and again."""
        with self.lock:
            self.under_way += 1
            if self.under_way == 1 and not self.accepted:
                self.record(True)
        reason = self._attempt(job)
        while reason and FOR_NOW.search(reason) and not self.ended.is_set():
            if not self.told:
                self.told = True
                said = said_by_slurm(reason)
                self.executor.logger.warning(
                    f"Slurm takes no job for now, and is asked until it does: {said}"
                )
            self.ended.wait(SECONDS_UNTIL_ROOM)
            reason = self._attempt(job)
        with self.lock:
            self.under_way -= 1
            if reason and not self.under_way and not self.accepted:
                self.record(False)
        if reason:
            said = said_by_slurm(reason)
            advice = next(words for sign, words in ADVICE if sign.lower() in said.lower())
            text = f"error: Slurm refused {job.name}: {said}; {advice}"
            self.executor.logger.error(text)
            self.refused.extend(getattr(job, "jobs", [job]))
            self.refuse(sys.modules[MODULE].SubmittedJobInfo(job), text)

    def _attempt(self, job: Any) -> str:
        """Submit a job once; return why it was refused, or an empty text."""
        self.local.reasons = []
        try:
            self.submit(job)
        except Exception as error:
            self.local.reasons.append(str(error.__context__ or error))
        reasons, self.local.reasons = self.local.reasons, None
        self.accepted = self.accepted or not reasons
        return reasons[-1] if reasons else ""

    def note_refusal(self, job_info: Any, msg: str) -> None:
        """Record why a submission of this thread was refused; for an array of jobs, report it at once."""
        if getattr(self.local, "reasons", None) is None:
            self.refuse(job_info, msg)
        else:
            self.local.reasons.append(msg)


def said_by_slurm(text: str) -> str:
    """Return Slurm's own text in a message of the executor, without the command that follows, in one line."""
    inner = re.search(r"error message was '(.*?)'\.?\n", text, flags=re.DOTALL)
    said = inner.group(1) if inner else text.partition("sbatch call:")[0]
    lines = [re.sub(r"^\w+: error: ", "", line.strip()) for line in said.splitlines()]
    return "; ".join(line.rstrip(".") for line in lines if line)
