"""Jobs that share a place in Slurm's queue: do the jobs of a group run in parallel?

A real Slurm, started on this machine as for the tests, reads files of many rows with the cluster's profile: first each
file in a job of Slurm's own, one after the other, and then all files as one group. The parallel efficiency of the group
is the time of its jobs one after the other, divided by the number of cores and the time of the group. Times are
Slurm's: whole seconds from the start of a job to its end, including the start of Snakemake.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copy, copytree

import yaml
from _frame import Benchmark, Goal, Quantity, Run
from _own_files import write_rows

ROOT = Path(__file__).parents[1]
EFFICIENCY = Quantity("parallel efficiency", "", smaller_is_better=False)
SECONDS = Quantity("wall time", "s")

bench = Benchmark("groups", __doc__, packages=("snakemake-executor-plugin-slurm",))


@contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """Start a Slurm, and yield the environment variables that find it."""
    tests = ROOT / "tests/slurm"
    subprocess.run([tests / "packages"], check=True)
    with tempfile.TemporaryDirectory(prefix="slurm-") as temporary:
        folder = Path(temporary, "state")
        with subprocess.Popen(
            [sys.executable, tests / "testbed.py", folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as keeper:  # fmt: skip
            assert keeper.stdin is not None
            assert keeper.stdout is not None
            answer = keeper.stdout.readline().strip()
            if answer != "ready":
                raise RuntimeError(f"Slurm did not start: {answer}")
            path = f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
            yield os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
            keeper.stdin.close()


def write_study(folder: Path, n_files: int, n_rows: int) -> None:
    """Write a study whose points are a user's own files."""
    for name in ("workflow", "config", "profiles"):
        copytree(ROOT / name, folder / name)
    copy(ROOT / "Snakefile", folder)
    matrices = {}
    for place in range(n_files):
        write_rows(folder / f"rows{place}.csv", n_rows)
        points = {"name": "file", "path": f"rows{place}.csv", "coordinates": ["x", "y"], "value": "v"}
        kernel = {"name": "matern", "nu": 0.5, "length_scale": 0.1}
        matrices[f"m{place}"] = {"points": points, "kernel": kernel, "nugget": 0.01, "task": "kriging"}
    (folder / "groups.yaml").write_text(yaml.safe_dump({"study": "groups", "matrices": matrices}))


def seconds_of(folder: Path, environment: dict[str, str], names: list[str]) -> float:
    """Read the files of these matrices as one group, and return the seconds of Slurm's job."""
    targets = [f"results/groups/points/{name}/manifest.json" for name in names]
    options = {
        "configfile": "groups.yaml",
        "profile": "profiles/cluster",
        "slurm-init-seconds-before-status-checks": "2",
        "forcerun": "points",
        "group-components": f"points={len(names)}",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    began = time.strftime("%Y-%m-%dT%H:%M:%S")
    done = subprocess.run(
        ["snakemake", *targets, *words],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"snakemake exited {done.returncode}:\n{done.stdout[-4000:]}")
    listed = subprocess.run(
        ["sacct", "-X", "-n", "-P", "-S", began, "--format=ElapsedRaw,State"],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    (job,) = listed
    elapsed, _, state = job.partition("|")
    if state != "COMPLETED":
        raise RuntimeError(f"the job ended {state}")
    return float(elapsed)


@bench.case("points of files")
def points(run: Run) -> None:
    """Read as many files as this machine has cores; each file takes one core."""
    n_files = min(os.cpu_count() or 1, 4)
    names = [f"m{place}" for place in range(n_files)]
    with tempfile.TemporaryDirectory(prefix="parsimony-") as temporary, slurm() as environment:
        folder = Path(temporary)
        write_study(folder, n_files, 20_000 if run.quick else 12_000_000)
        alone = []
        for name in names:
            alone.append(seconds_of(folder, environment, [name]))
            time.sleep(1)  # job times are whole seconds
        together = seconds_of(folder, environment, names)
    run.record(SECONDS, ours=together, peer=sum(alone), peer_name="one after the other")
    run.record(EFFICIENCY, ours=sum(alone) / (n_files * together), goal=Goal.ours(0.9))


if __name__ == "__main__":
    sys.exit(bench.main())
