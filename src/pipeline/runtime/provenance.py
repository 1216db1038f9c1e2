"""The provenance of an artefact: commit, code, inputs, versions, host, GPU, Slurm job, command, and cost."""

import itertools
import os
import platform
import resource
import shlex
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.runtime.energy import Counters
from pipeline.runtime.git import commit, is_dirty
from pipeline.runtime.software import versions


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


def provenance(code: str = "") -> dict[str, Any]:
    """Describe this run, and the code of its stage by the digest that the rule computed."""
    return {
        "commit": commit(),
        "dirty": is_dirty(),
        "code": code,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "gpus": gpus(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions(),
        "command": shlex.join(["python", "-m", "pipeline", *sys.argv[1:]]),
        "inputs": inputs_of(sys.argv),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "slurm": slurm() or None,
        "cost": cost(),
    }
