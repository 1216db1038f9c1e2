"""What is changed in Snakemake, with an executor that only notes what it was told. The real one is in tests/slurm."""

import asyncio
import sys
import threading
from functools import partial
from types import SimpleNamespace

import pytest
from snakemake.jobs import Reason
from snakemake.persistence import ParamsChange
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake_executor_plugin_slurm import Executor

from pipeline.errors import ConfigError
from pipeline.runtime import snakemake_patches
from pipeline.runtime.snakemake_patches import (
    check_versions,
    look_at_most_once_a_second,
    name_code_changes,
    patch_slurm,
    said_by_slurm,
)

FULL = (
    "SLURM sbatch failed. The error message was 'sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job "
    "submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)'.\n"
    '    sbatch call:\n        sbatch --parsable --wrap="..."\n'
)
REFUSED = (
    "SLURM sbatch failed. The error message was 'sbatch: error: Batch job submission failed: Invalid account or "
    "account/partition combination specified'.\n    sbatch call:\n        sbatch --parsable -A nobody\n"
)


class Log:
    """Notes what is said."""

    def __init__(self):
        self.said = []

    def warning(self, text, **_options):
        self.said.append(text)

    error = info = debug = warning


class FakeExecutor:
    """What the changes touch of the executor for Slurm; a job is what happens when it is submitted."""

    run_uuid = "parsimony_1"

    def __init__(self):
        self.logger, self.errors, self.submitted, self.ended = Log(), [], [], []

    def run_job(self, job):
        outcome = job.outcomes.pop(0)
        if outcome == "group job":
            # The plugin's own handler, which asks a group for its rule.
            try:
                raise ValueError("no such memory")
            except ValueError as error:
                self.logger.error(f"Exception in run_job for rule {job.rule.name}: {error}")
        elif outcome:
            self._report_job_error_threadsafe(SimpleNamespace(job=job), outcome)
        else:
            self.submitted.append(job.name)

    def _report_job_error_threadsafe(self, job_info, msg):
        self.errors.append((job_info.job.name, msg))

    def format_job_exec(self, job):
        return f"python -m snakemake --cores all --attempt 1 --executor slurm-jobstep --jobs 1 {job.name}"

    def cancel(self):
        self.ended.append("cancel")

    def shutdown(self):
        self.ended.append("shutdown")


def job(*outcomes):
    return SimpleNamespace(name="matrices", outcomes=list(outcomes))


def test_jobs_of_a_group_run_beside_each_other_on_all_its_cores_and_others_as_before(executor):
    alone = SimpleNamespace(name="alone", is_group=lambda: False)
    assert "--cores all --attempt 1 --executor slurm-jobstep --jobs 1" in executor.format_job_exec(alone)
    for resources, cores in (({"cpus_per_task": 4}, 4), ({}, 3)):
        group = SimpleNamespace(name="group", is_group=lambda: True, resources=resources, threads=3)
        assert executor.format_job_exec(group).endswith(f"--cores {cores} --attempt 1 --executor local group")


@pytest.fixture
def records():
    return []


@pytest.fixture
def executor(monkeypatch, records):
    """An executor that is patched, and doesn't wait for long."""
    made = FakeExecutor()
    module = SimpleNamespace(query_job_status=None, SubmittedJobInfo=lambda job: SimpleNamespace(job=job))
    monkeypatch.setitem(sys.modules, snakemake_patches.MODULE, module)
    monkeypatch.setattr(snakemake_patches, "SECONDS_UNTIL_ROOM", 0.0)
    made.refused = []
    patch_slurm(made, made.refused, records.append)
    return made


def test_the_real_executor_has_what_is_changed():
    assert all(
        callable(getattr(Executor, name))
        for name in ("run_job", "_report_job_error_threadsafe", "cancel", "shutdown")
    )
    assert callable(sys.modules[snakemake_patches.MODULE].query_job_status)


def test_a_group_job_whose_submission_raises_is_told_as_failed(executor, records):
    executor.run_job(job("group job"))
    (told,) = executor.errors
    assert (
        told[1]
        == "error: Slurm refused matrices: no such memory; correct the profile's resources of this rule"
    )
    assert executor.logger.said == [told[1]]
    assert records == [True, False]


def test_a_refused_account_is_one_line_with_where_to_set_another(executor):
    one = job(REFUSED)
    executor.run_job(one)
    assert executor.refused == [one]
    assert executor.logger.said == [
        "error: Slurm refused matrices: Batch job submission failed: Invalid account or account/partition combination "
        "specified; set slurm_account in the profile to one that `sacctmgr show associations user=$USER` lists"
    ]
    assert len(executor.errors) == 1


def test_a_full_queue_is_asked_until_it_has_room_and_told_of_once(executor, records):
    executor.run_job(job(FULL, FULL, FULL, None))
    assert executor.submitted == ["matrices"]
    assert executor.errors == []
    (said,) = executor.logger.said
    assert said.startswith(
        "Slurm takes no job for now, and is asked until it does: AssocMaxSubmitJobLimit; Batch job"
    )
    assert records == [True]


def test_what_waits_for_a_full_queue_ends_with_the_run(executor):
    executor.cancel()
    executor.run_job(job(FULL, None))
    assert executor.submitted == []
    assert executor.ended == ["cancel"]
    assert len(executor.errors) == 1


def test_a_disk_without_room_for_slurms_figures_is_a_warning_and_no_traceback(monkeypatch):
    def shutdown(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FakeExecutor, "shutdown", shutdown)
    module = SimpleNamespace(query_job_status=None)
    monkeypatch.setitem(sys.modules, snakemake_patches.MODULE, module)
    made = FakeExecutor()
    patch_slurm(made, [], [].append)
    made.shutdown()
    (said,) = made.logger.said
    assert said == "Slurm's figures of this run were not written: [Errno 28] No space left on device"


def test_a_run_is_recorded_while_it_may_have_jobs_and_not_for_those_that_were_refused(executor, records):
    executor.run_job(job(REFUSED))
    assert records == [True, False]
    executor.run_job(job(None))
    executor.run_job(job(REFUSED))
    assert records == [True, False, True]


def answers(*given):
    """A function that corrects one which gives these answers, with the commands that it was asked."""
    left, asked = list(given), []

    async def ask(command, _log):
        asked.append(command)
        return left.pop(0)

    return snakemake_patches._answered(ask, "parsimony_1"), asked


def test_a_job_that_a_person_cancelled_is_seen_as_cancelled():
    query, _ = answers(({"1": "CANCELLED by 1000", "2": "RUNNING"}, 0.1))
    assert asyncio.run(query("sacct", Log())) == ({"1": "CANCELLED", "2": "RUNNING"}, 0.1)


def test_a_database_that_does_not_answer_loses_no_job_and_the_controller_is_asked():
    query, asked = answers(
        (None, None), ({"1": "COMPLETED"}, 0.1), (None, None), (None, None), ({"2": "RUNNING"}, 0.2)
    )
    log = Log()
    assert asyncio.run(query("sacct", log)) == ({"1": "COMPLETED"}, 0.1)
    # None would have the executor forget its jobs; of no job there is news.
    assert asyncio.run(query("sacct", log)) == ({}, 0.0)
    assert asyncio.run(query("sacct", log)) == ({"2": "RUNNING"}, 0.2)
    assert asked[1] == "squeue --format='%i|%T' --states=all --noheader --name parsimony_1"
    assert len(log.said) == 1


@pytest.mark.parametrize(
    ("package", "with_slurm"), [("snakemake", False), ("snakemake-executor-plugin-slurm", True)]
)
def test_another_version_is_refused_with_the_one_that_is_known(package, with_slurm, monkeypatch):
    check_versions(with_slurm=with_slurm)
    known = snakemake_patches.version
    monkeypatch.setattr(
        snakemake_patches, "version", lambda name: "9.99.1" if name == package else known(name)
    )
    with pytest.raises(
        ConfigError, match=rf"{package} 9\.99\.1: the changes .* are for .*; run: pip install '{package}=="
    ):
        check_versions(with_slurm=with_slurm)


def test_changed_code_is_not_called_a_changed_parameter():
    name_code_changes()
    name_code_changes()
    reason = Reason()
    old, new = "'0123456789abcdef'", "'fedcba9876543210'"
    reason.params_changed = ParamsChange(only_old={old}, only_new={new}, files={"f"})
    assert (
        str(reason)
        == "Code has changed since last execution (digest 0123456789abcdef before, fedcba9876543210 now)"
    )
    reason.params_changed = ParamsChange(only_old={old, "'3'"}, only_new={new, "'4'"}, files={"f"})
    assert str(reason).startswith("Code has changed since last execution (digest 0123456789abcdef before")
    assert "; Params have changed since last execution: " in str(reason)
    reason.params_changed = ParamsChange(only_old={"'3'"}, only_new={"'4'"}, files={"f"})
    assert str(reason).startswith("Params have changed since last execution: ")


class Clock:
    """A clock that is moved by hand, and timers that end by it."""

    def __init__(self):
        self.now, self.timers = 100.0, []

    def monotonic(self):
        return self.now

    def Timer(self, delay, function):
        return SimpleNamespace(start=lambda: self.timers.append((self.now + delay, function)))

    def move(self, seconds):
        self.now += seconds
        ended = [function for end, function in self.timers if end <= self.now]
        self.timers = [(end, function) for end, function in self.timers if end > self.now]
        for function in ended:
            function()

    @property
    def ends(self):
        return [end for end, _ in self.timers]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(snakemake_patches, "time", clock)
    monkeypatch.setattr(snakemake_patches, "threading", clock)
    monkeypatch.setattr(JobScheduler, "_schedule_reevalutation", JobScheduler._schedule_reevalutation)
    look_at_most_once_a_second()
    return clock


@pytest.fixture
def scheduler(clock):
    """What the change touches of Snakemake's scheduler."""
    found = SimpleNamespace(_open_jobs=threading.Semaphore(0))
    found.look_after = partial(JobScheduler._schedule_reevalutation, found)
    return found


def looks(scheduler):
    """Return how many looks are due, which the main loop would now make."""
    return sum(iter(lambda: scheduler._open_jobs.acquire(blocking=False), False))


def test_one_look_a_second_follows_however_many_jobs_end(clock, scheduler):
    for _ in range(10):
        for _ in range(300):
            scheduler.look_after(1.0)
        clock.move(0.5)
        assert looks(scheduler) == 0
        clock.move(0.5)
        assert looks(scheduler) == 1
    assert clock.ends == []


def test_a_shorter_delay_does_not_wait_for_a_longer_one(clock, scheduler):
    scheduler.look_after(10.0)
    scheduler.look_after(1.0)
    scheduler.look_after(10.0)
    assert sorted(clock.ends) == [101.0, 110.0]
    clock.move(1.0)
    assert looks(scheduler) == 1


def test_a_message_without_slurms_words_is_kept():
    assert said_by_slurm("The given account x appears to be invalid. Available accounts:\na, b") == (
        "The given account x appears to be invalid. Available accounts:; a, b"
    )
