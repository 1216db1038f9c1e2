"""Own files in studies: time and number of commands from a file to its page, and memory.

Stations and a network run through the commands of the documentation, in a fresh folder with the environment active.
Ten million rows are read, checked and divided into known and held-out ones by the stage `points`, and then among
processes. Memory is the largest resident set of a process minus that for a thousand rows, so that imports do not count.
The cases of wrong files and runs are those of the tests.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copy, copytree
from xml.etree import ElementTree

import yaml
from _frame import Benchmark, Goal, Quantity, Run
from _own_files import write_images, write_mobilenet, write_rows, write_stations

from pipeline.operations.new_points import SOLVE_TOLERANCE
from pipeline.runtime.predicted_memory import NodeLimits, predicted_job

ROOT = Path(__file__).parents[1]
SECONDS = Quantity("wall time", "s")
MEMORY = Quantity("memory beside 1,000 rows'", "MB")
PREDICTED = Quantity("memory", "MB")
RESIDUAL = Quantity("residual on exact rows", "")
COMMANDS = Quantity("commands", "")
REFUSED = Quantity("one clear line", "cases", smaller_is_better=False)
NOT_REFUSED = Quantity("something else", "cases")
PROCESSES = (1, 2, 4)
BYTES_PER_ROW = 24

bench = Benchmark("own_data", __doc__, packages=("pyarrow", "onnx", "mpi4py"))


@contextmanager
def checkout() -> Iterator[Path]:
    """Yield a fresh folder in which studies run."""
    with tempfile.TemporaryDirectory(prefix="parsimony-") as temporary:
        folder = Path(temporary)
        for name in ("workflow", "config", "profiles"):
            copytree(ROOT / name, folder / name)
        copy(ROOT / "Snakefile", folder)
        yield folder


def seconds_of(folder: Path, command: str) -> tuple[float, str]:
    """Run a command as it is in the documentation; return its seconds and its output.

    Raises:
        RuntimeError: If the command fails; the text has its last words.
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    start = time.perf_counter()
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder, env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"{command} exited {done.returncode}:\n{done.stdout[-4000:]}")
    return seconds, done.stdout


def to_the_page(run: Run, folder: Path, name: str, file: str, *, most: int) -> Path:
    """Make a study of a file and run it; return the folder of its results."""
    commands = (
        f"python -m pipeline new {name} --from {file}",
        f"snakemake --cores {os.cpu_count()} --configfile config/{name}.yaml",
    )
    seconds = [seconds_of(folder, command)[0] for command in commands]
    results = folder / "results" / name
    if not (results / "report/index.html").is_file():
        raise RuntimeError(f"{file}: there is no page below {results}")
    run.record(COMMANDS, ours=len(commands), part="to its page", goal=Goal.ours(most))
    run.record(SECONDS, ours=sum(seconds), part="to its page", goal=Goal.ours(120))
    return results


@bench.case("CSV of 10,000 stations")
def stations(run: Run) -> None:
    """From a file of stations to a map with standard deviations."""
    with checkout() as folder:
        write_stations(folder / "stations.csv", 300 if run.quick else 10_000)
        results = to_the_page(run, folder, "rain", "stations.csv", most=3)
        page = (results / "report/index.html").read_text(encoding="utf-8")
        if "Map of the predicted mm" not in page or "standard deviation" not in page:
            raise RuntimeError("the page has no map with standard deviations")
        (manifest,) = results.glob("solve/*/manifest.json")
        residual = json.loads(manifest.read_text())["facts"]["solve"]["exact_residual"]
        run.record(RESIDUAL, ours=residual, part="to its page", goal=Goal.ours(SOLVE_TOLERANCE))


@bench.case("ONNX file, MobileNetV2's shape at 224")
def network(run: Run) -> None:
    """From the file of a network to the page of its layers."""
    with checkout() as folder:
        write_mobilenet(folder / "detector.onnx", size=32 if run.quick else 224)
        to_the_page(run, folder, "detector", "detector.onnx", most=2)


@bench.case("10,000,000 rows")
def rows(run: Run) -> None:
    """Read, check and divide a file of each format."""
    n = 100_000 if run.quick else 10_000_000
    with tempfile.TemporaryDirectory(prefix="parsimony-") as temporary:
        for ending in (".csv", ".parquet", ".npy"):
            folder = Path(temporary) / ending
            folder.mkdir()
            few, _, _ = points_of(folder, 1000, ending)
            peak, seconds, manifest = points_of(folder, n, ending)
            part = f"{ending} read, checked, held out"
            run.record(SECONDS, ours=seconds, part=part)
            # The rows themselves are 240 MB.
            run.record(MEMORY, ours=peak - few, part=part, goal=Goal.ours(n * BYTES_PER_ROW / 1e6))
        small = points_of(folder, 1000, ending)[2]
        for processes in PROCESSES:
            peak = largest_part(manifest, processes) - largest_part(small, processes)
            # Rows of two coordinates of one process: once mapped and once copied.
            most = 2 * 0.9 * n * 16 / processes / 1e6
            run.record(MEMORY, ours=peak, part=f"divided, 1 of {processes} processes", goal=Goal.ours(most))


def points_of(folder: Path, n: int, ending: str) -> tuple[float, float, Path]:
    """Run the stage `points` on a file of `n` rows; return its peak memory in MB, its seconds and its manifest."""
    path = folder / f"{n}{ending}"
    if not path.exists():
        write_rows(path, n)
    x, y, value = ("0", "1", "2") if ending == ".npy" else ("x", "y", "v")
    spec, output = folder / "spec.json", folder / str(n) / "manifest.json"
    points = {"name": "file", "path": str(path), "coordinates": [x, y], "value": value}
    spec.write_text(json.dumps({"points": points}))
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "points", "--spec", str(spec), "--output", str(output)],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"stage points exited {child.returncode} for {path}")
    return usage.ru_maxrss / 1e3, time.perf_counter() - start, output


#: Use of the points by a process of the stages that follow.
OWN_ROWS = """
import resource, sys
from pathlib import Path
import torch
from pipeline.artifacts.store import Artifact
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.stages.parts.divided import own_rows
communicator = MpiCommunicator.of(int(sys.argv[1]))
points = Artifact.open(Path(sys.argv[2]), "points", contents=communicator.rank == 0)
rows = own_rows(points, "points", communicator)
peaks = communicator.all_gather(torch.tensor([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
if communicator.rank == 0:
    print(max(int(peak) for peak in peaks))
"""


def largest_part(manifest: Path, processes: int) -> float:
    """Let each of several processes take its rows; return the largest peak memory of a process in MB."""
    done = subprocess.run(
        ["mpiexec", "-n", str(processes), sys.executable, "-m", "mpi4py", "-c", OWN_ROWS, str(processes),
         str(manifest)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout) / 1e3


#: The work of the stage `solve` for the task scattering, and its peak memory.
SCATTER = """
import resource, sys
from pathlib import Path
import torch
from pipeline.config.matrices import Solve, Wave
from pipeline.data.meshes import sphere_mesh
from pipeline.hmatrix.boundary_elements import TriangleMesh
from pipeline.hmatrix.kernels import Helmholtz
from pipeline.runtime.communicator import Serial
from pipeline.stages.parts.scattering import answer
vertices, triangles = sphere_mesh(int(sys.argv[1]))
mesh = TriangleMesh(torch.from_numpy(vertices), torch.from_numpy(triangles))
wavenumber = 2 * torch.pi / (10 * float(mesh.diameters.max()))
wave, solve = Wave(condition=sys.argv[2]), Solve(tolerance=1e-5)
answer(vertices, triangles, Helmholtz(wavenumber), wave, 1e-5, solve, Serial())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@bench.case("memory of scattering")
def scattering(run: Run) -> None:
    """Both layers of a wave at soft and hard spheres with ten triangles per wavelength, and the prediction."""
    for refinements in (2, 3) if run.quick else (3, 4, 5):
        n = 20 * 4**refinements
        facts = {"name": "sphere", "n": n, "dimension": 3}
        node = NodeLimits(n_bytes=math.inf, processes=2)
        predicted = predicted_job("solve", facts, {"task": "scattering"}, 1e-5, node).n_bytes
        for condition in ("soft", "hard"):
            done = subprocess.run(
                [sys.executable, "-c", SCATTER, str(refinements), condition],
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            peak = int(done.stdout)
            run.record(
                PREDICTED, ours=peak / 1e3, peer=predicted / 1e6, peer_name="predicted, with its margin",
                goal=Goal.ratio(1.0), part=f"{n} triangles, {condition}",
            )  # fmt: skip


@bench.case("100,000 image files")
def images(run: Run) -> None:
    """Run a study of a folder of images once, and a second time with nothing to do."""
    with checkout() as folder:
        n = 1000 if run.quick else 100_000
        write_images(folder / "images", n)
        name, command = folder / "config/mine.yaml", f"snakemake --cores {os.cpu_count()} --configfile "
        seconds_of(folder, "python -m pipeline new mine --from images")
        study = yaml.safe_load(name.read_text())
        study["training"]["runs"]["sgd"] |= {"epochs": 1, "batch_size": 1024 if n > 10_000 else 64}
        name.write_text(yaml.safe_dump(study))
        run.record(SECONDS, ours=seconds_of(folder, f"{command} config/mine.yaml")[0], part="first run")
        seconds, output = seconds_of(folder, f"{command} config/mine.yaml")
        if "Nothing to be done" not in output:
            raise RuntimeError(f"the second run was to find nothing to do:\n{output}")
        run.record(SECONDS, ours=seconds, part="nothing to do", goal=Goal.ours(10))


WRONG = {
    "malformed files": ("tests/data tests/stages tests/precision", "malformed and (one_line or refused)"),
    "hostile runs": (
        "tests/workflow/test_ways_out.py tests/workflow/test_mixed_code.py tests/workflow/test_security.py",
        "test",
    ),
}


@bench.case("wrong")
def wrong(run: Run) -> None:
    """Count the cases of wrong files and hostile runs that are refused; the cases are the tests'."""
    for what, (places, chosen) in WRONG.items():
        with tempfile.TemporaryDirectory(prefix="parsimony-") as folder:
            told = Path(folder) / "junit.xml"
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-k",
                chosen,
                f"--junitxml={told}",
                *places.split(),
            ]
            subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
            cases = list(ElementTree.parse(told).iter("testcase"))
        failed = sum(any(mark.tag in ("failure", "error", "skipped") for mark in case) for case in cases)
        run.record(REFUSED, ours=len(cases) - failed, part=what)
        run.record(NOT_REFUSED, ours=failed, part=what, goal=Goal.ours(0))


if __name__ == "__main__":
    sys.exit(bench.main())
