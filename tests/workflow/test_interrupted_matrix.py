"""An interrupt while two processes compress or solve: the same word and code as ever, and nothing is left."""

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]

MATRIX = {
    "points": {"name": "uniform_square", "n": 200_000},
    "kernel": {"name": "matern", "nu": 0.5, "length_scale": 0.1},
    "nugget": 0.01,
    "task": "product",
    "compress": {"tolerance": 1e-5},
}
# So tight a factorization of so many points takes long enough to be interrupted.
SYSTEM = MATRIX | {
    "points": {"name": "uniform_square", "n": 20_000},
    "task": "solve",
    "compress": {"tolerance": 1e-4},
    "factor": {"tolerance": 1e-8},
}
ON_TWO = ("--set-resources", "compress:tasks=2", "solve:tasks=2")


def segments_of(pid):
    """The files in memory that an MPI process has mapped; none before it has loaded the native module.

    Only processes of the pipeline load it, and only those of a stage with several processes map such files.
    """
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    if not any("/hmatrix/_native" in line for line in lines):
        return set()
    return {line.split(maxsplit=5)[5] for line in lines if re.search(r" /dev/shm/(mpich|vader|sm_seg)", line)}


def computing(folder):
    """The processes of a workplace that compute together, each with the files in memory that it has mapped."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if os.readlink(f"/proc/{pid}/cwd") == str(folder) and (segments := segments_of(pid)):
                found[pid] = segments
    return found


def target(stage):
    return f"results/small/{stage}/large/manifest.json"


def interrupt(workplace, stage, signum):
    """Interrupt the two processes of a stage, and see that they end with one word and leave nothing.

    What starts warm is in no group of processes that a signal could be sent to.
    """
    main = workplace.start(
        target(stage), *ON_TWO, start_new_session=True, warm=signum != signal.SIGINT,
        # Tests may have been started with interrupts ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while len(mapped := computing(workplace.folder).values()) < 2:
        assert main.poll() is None, main.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    segments = set.union(*mapped)
    if signum == signal.SIGINT:  # a terminal sends it to all
        os.killpg(main.pid, signum)
    else:
        main.send_signal(signum)
    said, _ = main.communicate(timeout=120)
    assert main.returncode == 130, said
    assert "Run the same command again to go on" in said
    assert "Traceback" not in said
    # A process that was killed has ended when the kernel is done with it.
    deadline = time.monotonic() + 60
    while computing(workplace.folder):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not [name for name in segments if Path(name).exists()]
    assert "interrupted" in (workplace.results / "logs" / stage / "large.txt").read_text()


@pytest.mark.parametrize(
    ("stage", "matrix", "signum"), [("compress", MATRIX, signal.SIGINT), ("solve", SYSTEM, signal.SIGTERM)]
)
def test_an_interrupt_of_processes_that_compute_together_leaves_nothing(
    workplace, study, stage, matrix, signum
):
    workplace.write_study(study | {"matrices": {"large": matrix}})
    # What comes before is one process's, so that two compute in this stage alone.
    workplace.snakemake(target({"compress": "points", "solve": "compress"}[stage]))
    interrupt(workplace, stage, signum)
    workplace.write_study(study | {"matrices": {"large": matrix | {"points": matrix["points"] | {"n": 900}}}})
    workplace.snakemake(target(stage), *ON_TWO)
