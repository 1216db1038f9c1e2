"""Command `rerun`: run a study from cron, a timer or Slurm, without anybody watching.

One line says what happened, and the exit code sums it up: 0, the results are up to date; 1, they are not; 2, the
request makes no sense. Everything else is in a log of its own.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from pipeline.artifacts.disk import errors_of_the_disk
from pipeline.artifacts.history import manifests_of
from pipeline.artifacts.lock import hold
from pipeline.config.yaml_files import read_yaml
from pipeline.errors import PipelineError
from pipeline.operations.leftovers import still_running
from pipeline.operations.main_process import look_back
from pipeline.operations.paths import results_folder
from pipeline.operations.studies import RESULTS, StudyFile, find_profile, read_study
from pipeline.operations.text import duration
from pipeline.runtime.termination import asked_to_end
from pipeline.runtime.words import counted

LOGS = Path("logs") / "rerun"


def run(options: Namespace) -> int:
    """Rerun a study unless a part of it still runs; return 0 if it is up to date now, 1 if it isn't."""
    study = read_study(options.study)
    profile = find_profile(options.profile)
    try:
        results_folder(RESULTS)
        with errors_of_the_disk(study.folder), hold(Path.cwd(), name="rerun"):
            outcome = _rerun(study, profile, options)
    except PipelineError as error:
        outcome = (1, f"failed: {error}")
    print(f"rerun {study.name}: {outcome[1]}")
    return outcome[0]


def _rerun(study: StudyFile, profile: Path | None, options: Namespace) -> tuple[int, str]:
    alive = still_running(Path.cwd())
    if alive:
        return 1, f"failed: {alive}; nothing was started"
    logs = study.folder / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.txt"
    start = time.monotonic()
    code = _snakemake(command_of(study.path, profile, options.cores), log, options.keep)
    took = duration(time.monotonic() - start)
    for old in sorted(logs.glob("*.txt"), reverse=True)[options.keep :]:
        old.unlink()
    look_back(study.name, map(str, manifests_of(study.folder)), n_reports=options.keep)
    said = log.read_text(encoding="utf-8", errors="replace")
    report = study.folder / "report" / "index.html"
    if code != 0:
        ended = f", ended by {signal.Signals(-code).name}" if code < 0 else ""
        return 1, f"failed after {took}{ended}{failure_in(said)}; log {log}"
    if "Nothing to be done" in said:
        return 0, f"unchanged, nothing to be done ({took}); report {report}"
    return 0, f"rerun, {jobs_in(said)} in {took}{_moved(report.with_name('metrics.json'))}; report {report}"


def command_of(study: Path, profile: Path | None, cores: int | None) -> list[str]:
    """Return the command that runs a study; with a profile that names neither executor nor cores, it uses all cores."""
    # --configfile takes every word up to the next option.
    command = [sys.executable, "-m", "snakemake", "--configfile", str(study), "--nocolor"]
    settings: set[str] = set()
    if profile is not None:
        command += ["--profile", str(profile)]
        settings = set(read_yaml(sorted(profile.glob("config*.yaml"))[-1]))
    if cores is not None or not settings & {"cores", "jobs", "executor"}:
        command += ["--cores", str(cores or "all")]
    return command


def _snakemake(command: list[str], log: Path, keep: int) -> int:
    """Run a command into a log and return its exit code, or the negative number of a signal that ended either process.

    A signal to this process ends the command too, with all its jobs here and in a queue.
    """
    # A Slurm job may run this; its settings must not reach the jobs of the study.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SBATCH_")) or name == "SLURM_CONF"
    }
    environment["PARSIMONY_PAST_REPORTS"] = str(keep)
    started: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def pass_on(signum: int, _frame: FrameType | None) -> None:
        # No exception: it could be raised during the start, when nobody knows yet what to end.
        asked.append(signum)
        for process in started:
            _interrupt(process)

    with asked_to_end(pass_on), log.open("w") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            # A scheduler may have started this with interrupts ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        if asked:
            _interrupt(process)
        code = process.wait()
    return -asked[0] if asked else code


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Act like Ctrl-C in a terminal: Snakemake then cancels its jobs, while SIGTERM would make it wait for them."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)


def jobs_in(log: str) -> str:
    """Return the number of finished jobs from the last line of our logger."""
    done = re.findall(r"^\S+: (\d+) of \d+ jobs? done", log, flags=re.MULTILINE)
    return counted(int(done[-1]) if done else 0, "job")


def failure_in(log: str) -> str:
    """Return the first line with a reason, and the rules that failed; empty if the log has neither."""
    rules = list(dict.fromkeys(re.findall(r"^Error in rule (\w+)", log, flags=re.MULTILINE)))
    errors = re.findall(r"^ *error: (.*)$", log, flags=re.MULTILINE)
    return (f" in {', '.join(rules)}" if rules else "") + (f": {errors[0]}" if errors else "")


def _moved(metrics: Path) -> str:
    """Return how many figures the report flags."""
    try:
        history = json.loads(metrics.read_text(encoding="utf-8"))["history"] or {}
        changes, n_figures = history["changes"], history["n_figures"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    if not n_figures:
        return ""
    if not changes:
        return ", no figure beyond the noise of past runs"
    worse = sum(change["verdict"] == "worse" for change in changes)
    return f", {counted(len(changes), 'figure')} beyond the noise of past runs ({worse} worse)"
