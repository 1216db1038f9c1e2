"""What goes wrong around a study is one line with a way out, and leaves nothing that stands in the way later."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.operations.leftovers import SHARED_MEMORY

pytestmark = pytest.mark.workflow

POINTS = "results/small/points/ball/manifest.json"


def error_of(output):
    """The one line of an output that tells of an error."""
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in output
    return error


def test_a_cluster_profile_without_slurm_is_refused_and_the_next_local_run_is_not(
    workplace, tmp_path_factory
):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    # All that the PATH has but Slurm's clients, which may be installed here.
    programs = tmp_path_factory.mktemp("programs")
    for folder in reversed(os.get_exec_path()):
        for program in Path(folder).glob("*"):
            if not program.name.startswith(
                ("sbatch", "sacct", "squeue", "scancel", "srun", "sinfo", "scontrol")
            ):
                (programs / program.name).unlink(missing_ok=True)
                (programs / program.name).symlink_to(program)
    workplace.variables["PATH"] = str(programs)
    error = error_of(workplace.snakemake(POINTS, "--profile", "cluster", code=2))
    assert (
        "there is no sbatch here; load Slurm's clients or start on another node, or run the study on this machine: "
        "leave --profile out" in error
    )
    assert not workplace.results.exists()
    assert not list((workplace.folder / ".snakemake").glob("*.lock"))
    assert "the same command without targets, --until and --omit-from makes it" in workplace.snakemake(POINTS)


def files_of(folder):
    """What lies in a checkout, without what Python and Snakemake keep there for themselves."""
    return {path for path in folder.rglob("*") if not {".snakemake", "__pycache__"} & {*path.parts}}


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("--containerize", "docker build -t parsimony ."),
        ("--generate-unit-tests", "python -m pipeline verify FOLDER --against RESULTS"),
    ],
)
def test_options_that_make_no_sense_here_say_what_serves_instead(workplace, option, instead):
    before = files_of(workplace.folder)
    error = error_of(workplace.snakemake(option, code=2))
    assert error.startswith(f"error: {option} writes")
    assert instead in error
    assert files_of(workplace.folder) == before


def processes_in(folder):
    """The processes that work in a folder."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/cwd") == str(folder):
                found.append(int(entry))
        except OSError:
            continue
    return found


def test_all_jobs_that_outlive_a_killed_main_process_are_named_and_what_they_leave_in_memory_is_freed(
    workplace, study
):
    for run in study["training"]["runs"].values():
        run["epochs"] = 4000
    workplace.write_study(study)
    main = workplace.start(
        "--until", "train", "--set-resources", "train:checkpoint_steps=1", start_new_session=True, warm=True
    )
    deadline = time.monotonic() + 200
    while len(list(workplace.folder.glob("results/checkpoints/*/checkpoint.json"))) < 2:
        assert main.poll() is None, main.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # What MPI keeps in memory while its processes live, and what nobody frees when they are killed.
    segment = SHARED_MEMORY / f"mpich_shm_{main.pid}_of_a_test"
    segment.write_bytes(bytes(1))
    main.kill()
    main.wait()
    main.stdout.close()
    survivors = processes_in(workplace.folder)
    try:
        for pid in survivors:
            # What starts for a killed process ends with it, a moment later.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        error = error_of(workplace.snakemake("--until", "train", code=2))
    finally:
        for pid in survivors:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert "jobs of a main process that was killed still run here: " in error
    assert "results/small/train/curved/seed0 (process " in error
    assert "results/small/train/plain/seed0 (process " in error
    assert "; wait until they end, or end them: kill " in error
    workplace.snakemake(POINTS)
    assert not segment.exists()
