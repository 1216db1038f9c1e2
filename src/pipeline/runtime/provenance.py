"""The provenance of an artefact: commit, code, inputs, versions, host, GPU, Slurm job, command, and cost."""

import itertools
import os
import platform
import resource
import shlex
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from pipeline.artifacts.provenance import Provenance
from pipeline.runtime.energy import Counters
from pipeline.runtime.software import versions

# Folders and files that a result depends on. New ones count before they are committed, except a new study: its content
# is in the spec of every artefact.
CODE = ("Snakefile", "config", "profiles", "src", "workflow")
NEW_CODE = tuple(name for name in CODE if name != "config")


def git(*arguments: str, folder: Path = Path(__file__).parent, patience: float = 10) -> str | None:
    """Return what git prints in a folder; None if it fails or takes longer than `patience` seconds."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, timeout=patience, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return os.fsdecode(done.stdout)


def commit() -> str | None:
    """The commit that is checked out; None where git can't tell."""
    told = git("rev-parse", "HEAD")
    return None if told is None else told.strip()


def is_dirty() -> bool | None:
    """Whether the checkout differs from its commit, also by new code; None where git can't tell."""
    changed = git("status", "--porcelain", "--untracked-files=no")
    new = git("ls-files", "--others", "--exclude-standard", "--", *(f":/{name}" for name in NEW_CODE))
    return None if changed is None or new is None else bool(changed or new)


def commits_between(old: str | None, new: str | None, most: int = 20) -> list[str]:
    """The commits after `old` up to `new`, newest first, by short name and subject; none if git can't tell."""
    if not old or not new or old == new:
        return []
    told = git("log", "--oneline", "--no-decorate", f"--max-count={most + 1}", f"{old}..{new}", "--")
    lines = (told or "").splitlines()
    return lines if len(lines) <= most else [*lines[:most], "and older ones"]


def uncommitted(folder: Path = Path(__file__).parent) -> list[str]:
    """The code files that are new or differ from their commit, by path in the checkout; none if git can't tell."""
    told = git(
        "status", "--porcelain", "--untracked-files=all", "-z", "--no-renames", "--",
        *(f":/{name}" for name in CODE), folder=folder,
    )  # fmt: skip
    return [line[3:] for line in (told or "").split("\0") if line and not line.startswith("?? config/")]


def cpu_model() -> str:
    """The processor's name as the kernel reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


# A stage imports this module before it works, so the cost starts here; commands without artefacts don't import it.
_COUNTERS_AT_START = Counters.now()


def cost() -> dict[str, float]:
    """Resources that this process spent so far: seconds, processor seconds, peak memory, and energy where counted.

    Peak memory is that of this process alone; energy is that of its whole node.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    try:
        # Field 22 is the start of the process in ticks since boot. Field 2, its name, may hold blanks.
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / ticks
        seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError):
        seconds = time.process_time()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_memory_bytes": usage.ru_maxrss * 1024,
        **Counters.now().since(_COUNTERS_AT_START),
    }


def gpus() -> list[str]:
    """The names of the GPUs that this process may use; none where torch was not imported."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def inputs_of(arguments: list[str]) -> dict[str, str]:
    """The artefacts among the options of a command, by the option's name."""
    pairs = itertools.pairwise(arguments)
    return {
        option[2:]: path
        for option, path in pairs
        if option.startswith("--") and option != "--output" and path.endswith("manifest.json")
    }


def slurm() -> dict[str, str]:
    """Slurm's information for this job, by short names; empty outside of a job."""
    names = {
        "job": "SLURM_JOB_ID",
        "array_task": "SLURM_ARRAY_TASK_ID",
        "nodes": "SLURM_JOB_NODELIST",
        "partition": "SLURM_JOB_PARTITION",
        "restarts": "SLURM_RESTART_COUNT",
    }
    return {key: os.environ[name] for key, name in names.items() if name in os.environ}


def provenance(code: str = "") -> Provenance:
    """Describe this run, and the code of its stage by the digest that the rule computed."""
    return Provenance(
        commit=commit(),
        dirty=is_dirty(),
        code=code,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        host=socket.gethostname(),
        platform=platform.platform(),
        cpu=cpu_model(),
        gpus=gpus(),
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        versions=versions(),
        command=shlex.join(["python", "-m", "pipeline", *sys.argv[1:]]),
        inputs=inputs_of(sys.argv),
        slurm_job=os.environ.get("SLURM_JOB_ID"),
        slurm=slurm(),
        cost=cost(),
    )
