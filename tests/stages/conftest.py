import json
import subprocess
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import pytest
from pages import write_no_svg
from warm_starts import folder_of_programs

from pipeline.__main__ import main
from pipeline.artifacts.store import Artifact
from pipeline.config.loading import validate
from pipeline.config.specs import specs
from pipeline.precision import attained, measure_attained, measure_roofs
from pipeline.precision.roofline import TYPICAL
from pipeline.runtime.provenance import commit, is_dirty

STUDY = {
    "study": "stages",
    "seeds": [0],
    "device": "cpu",
    "dataset": {"name": "digits", "train_samples": 128, "validation_samples": 32},
    "model": {"name": "cnn", "batch_norm": True},
    "training": {
        "runs": {"only": {"optimizer": {"name": "sgd", "lr": 0.05}, "batch_size": 64, "epochs": 2}},
    },
    "precision": {"runs": ["only"], "batch_sizes": [1, 3], "min_samples": 5},
    "matrices": {
        "embeddings": {
            "points": {"name": "embeddings", "run": "only", "samples": 100},
            "kernel": {"name": "squared_exponential", "length_scale": 1.0},
            "nugget": 0.01,
            "task": "classification",
            "compress": {"tolerance": 1e-3},
        },
        "airports": {
            "points": {"name": "airports", "n": 400},
            "kernel": {"name": "matern", "length_scale": 0.1},
            "nugget": 0.01,
            "task": "kriging",
            "compress": {"tolerance": 1e-3},
        },
    },
}

OWN_STAGES = (("points", "points"), ("compress", "operator"), ("solve", ""))


@dataclass(frozen=True)
class Bench:
    """A folder in which stages run one by one, as rules would run them."""

    folder: Path

    def write_specs(self, study) -> None:
        for name, spec in specs(validate(study)).items():
            path = self.folder / "spec" / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(spec))

    def manifest(self, stage: str) -> Path:
        return self.folder / stage / "manifest.json"

    def arguments(self, stage, output=None, **options) -> list[str]:
        words = [stage, "--output", str(self.manifest(output or stage))]
        for name, value in options.items():
            words += [f"--{name}", str(value)]
        return words

    def run(self, stage, **options) -> int:
        return main(self.arguments(stage, **options))

    def dataset(self) -> None:
        assert self.run("dataset", spec=self.folder / "spec/dataset.json") == 0

    def train_options(self, name="only") -> dict:
        return {
            "spec": self.folder / f"spec/training/{name}.json",
            "dataset": self.manifest("dataset"),
            "run": name,
            "seed": 0,
            "checkpoints": self.folder / "checkpoints",
        }

    def solution(self) -> Artifact:
        """What was solved for the matrix of one's own."""
        return Artifact.open(self.manifest("solve/mine"), "solution")

    def page(self) -> str:
        return (self.folder / "report/index.html").read_text()

    def command(self, *arguments) -> list[str]:
        return [f"{folder_of_programs()}/python", "-m", "pipeline", *arguments]

    def mpi_command(self, n_processes, *arguments) -> list[str]:
        python, *words = self.command(*arguments)
        return ["mpiexec", "-n", str(n_processes), python, "-m", "mpi4py", *words]

    def mpiexec(self, n_processes, *arguments) -> subprocess.CompletedProcess:
        command = self.mpi_command(n_processes, *arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


_roofs = cache(partial(measure_roofs, seconds=0.02))
_attained = cache(lambda: measure_attained(_roofs()))
_commit, _is_dirty = cache(commit), cache(is_dirty)


def _attained_below(given):
    assert given is _roofs()
    return _attained()


@pytest.fixture(scope="module", autouse=True)
def _quick_roofs():
    """Measure the machine once, for a moment: what stages make of its roofs is tested here, and not what they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.stages.time_layers.measure_roofs", _roofs)
        # Memory is measured by some times what the last cache holds: of a server's that is a gigabyte.
        patch.setattr("pipeline.precision.roofline.cache_sizes", lambda: dict(TYPICAL))
        patch.setattr(attained, "SAMPLING", replace(attained.SAMPLING, n_samples=1, n_at_least=1, n_warm=1))
        patch.setattr("pipeline.stages.time_layers.measure_attained", _attained_below)
        yield


@pytest.fixture(scope="module", autouse=True)
def _git_asked_once():
    """Ask git once: every artefact tells its commit, which three programs are started for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.runtime.provenance.commit", _commit)
        patch.setattr("pipeline.runtime.provenance.is_dirty", _is_dirty)
        yield


@pytest.fixture(autouse=True)
def _no_svg(monkeypatch):
    """What figures look like is tested in tests/report."""
    write_no_svg(monkeypatch)


@pytest.fixture
def study():
    return json.loads(json.dumps(STUDY))


@pytest.fixture
def bench(tmp_path, study):
    bench = Bench(tmp_path)
    bench.write_specs(study)
    return bench


@pytest.fixture
def matrix(bench, monkeypatch):
    """A function that runs a matrix of one's own from its section to the page; it returns the exit codes."""
    monkeypatch.chdir(bench.folder)
    monkeypatch.syspath_prepend(str(bench.folder))

    def run(section):
        bench.write_specs({"study": "own", "matrices": {"mine": section}})
        inputs, codes = {}, []
        for stage, made in OWN_STAGES:
            spec = bench.folder / f"spec/{stage}/mine.json"
            codes.append(bench.run(stage, output=f"{stage}/mine", spec=spec, **inputs))
            if codes[-1]:
                return codes
            inputs[made] = bench.manifest(f"{stage}/mine")
        options = {"spec": bench.folder / "spec/report.json", "benchmarks": bench.folder / "benchmarks"}
        return [*codes, bench.run("report", **options)]

    return run


@pytest.fixture(scope="session")
def make_bench():
    """A function that makes a bench in a folder, for fixtures of a whole file; another may change its study."""

    def make(folder, change=lambda study: None):
        study = json.loads(json.dumps(STUDY))
        change(study)
        bench = Bench(folder)
        bench.write_specs(study)
        return bench

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A bench with a data set, a trained and a converted network; not to be changed."""
    bench = Bench(tmp_path_factory.mktemp("trained"))
    bench.write_specs(STUDY)
    bench.dataset()
    assert bench.run("train", **bench.train_options()) == 0
    inputs = {"weights": bench.manifest("train"), "dataset": bench.manifest("dataset")}
    assert bench.run("convert", **inputs) == 0
    return bench
