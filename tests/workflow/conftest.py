"""A checkout-like folder in which snakemake runs on a study of a few seconds."""

import copy
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from warm_starts import folder_of_programs, run_python
from workplace import copy_checkout

SMALL = {
    "study": "small",
    "seeds": [0],
    "device": "cpu",
    "dataset": {"name": "digits", "train_samples": 256, "validation_samples": 64},
    "model": {"name": "mlp", "hidden": [16]},
    "training": {
        "runs": {
            "plain": {"optimizer": {"name": "sgd", "lr": 0.05}, "batch_size": 32, "epochs": 1},
            "curved": {"optimizer": {"name": "kfac", "lr": 0.1}, "batch_size": 64, "epochs": 1},
        },
    },
    "precision": {"runs": ["curved"], "min_samples": 5},
    "matrices": {
        "airports": {
            "points": {"name": "airports", "n": 700},
            "kernel": {"name": "matern", "nu": 0.5, "length_scale": 0.1},
            "nugget": 0.01,
            "task": "kriging",
            "compress": {"tolerance": 1e-4},
        },
        "ball": {
            "points": {"name": "sphere", "refinements": 2},
            "kernel": {"name": "laplace_single_layer"},
            "task": "capacitance",
            "compress": {"tolerance": 1e-4},
        },
        "features": {
            "points": {"name": "embeddings", "run": "curved", "samples": 100},
            "kernel": {"name": "squared_exponential", "length_scale": 3.0},
            "nugget": 1.0,
            "task": "classification",
            "compress": {"tolerance": 1e-3},
        },
    },
    "scaling": {"sizes": [256, 512], "tolerance": 1e-4},
}


#: Variables that Python, or a module that it imports, obeys when it starts; what starts warm is past that.
OBEYED_AT_STARTS = {"HOME", "LC_ALL", "PYTHONUTF8"}


@dataclass
class Workplace:
    """A copy of all that a checkout has, so that a test may change code and study."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        return self.folder / "results" / "small"

    def write_study(self, study) -> None:
        (self.folder / "study.yaml").write_text(yaml.safe_dump(study))

    def environment(self) -> dict[str, str]:
        """Variables with which Python finds the copy's modules."""
        return os.environ | {"PYTHONPATH": str(self.folder / "src"), "OMP_NUM_THREADS": "1"} | self.variables

    def options(self, study, arguments) -> list[str]:
        """Options of snakemake that come before a test's own.

        A matrix is one process's: what several do is tested where it is asked for, and each has to be started. A
        profile's resources are those that it sets.
        """
        one = ["--set-resources", "compress:tasks=1", "solve:tasks=1"]
        # --configfile takes all words that follow it, targets as well.
        return ["--configfile", study, *([] if "--profile" in arguments else one), "--cores", "2"]

    def start(self, *arguments, study="study.yaml", warm=False, **options) -> subprocess.Popen:
        """Start snakemake on a study; a warm start starts its jobs warm, too."""
        environment = self.environment()
        if warm:
            environment["PATH"] = f"{folder_of_programs()}:{environment['PATH']}"
        command = [
            f"{folder_of_programs()}/python" if warm else sys.executable,
            "-m",
            "snakemake",
            *self.options(study, arguments),
            *arguments,
        ]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
        )  # fmt: skip

    def snakemake(self, *arguments, code=0, study="study.yaml") -> str:
        """Run snakemake to its end and return what it printed."""
        if not self.variables.keys() & OBEYED_AT_STARTS:
            command = ["-m", "snakemake", *self.options(study, arguments), *arguments]
            done = run_python(command, folder=self.folder, environment=self.environment())
            assert done.returncode == code, done.stdout
            return done.stdout
        process = self.start(*arguments, study=study)
        output, _ = process.communicate(timeout=800)
        assert process.returncode == code, output
        return output

    def pipeline(self, *arguments, code=0) -> str:
        """Run a command of the pipeline and return what it printed."""
        done = run_python(["-m", "pipeline", *arguments], folder=self.folder, environment=self.environment())
        assert done.returncode == code, done.stdout
        return done.stdout

    def planned(self, *arguments) -> set[str]:
        """The outputs that a run would make now, as rule names with their wildcards, without doing it."""
        output = self.snakemake("--dry-run", "--quiet", "reason", *arguments)
        return jobs_of(output)


def jobs_of(output: str) -> set[str]:
    """Read `rule` blocks of snakemake's log: rule name and output folder below the study."""
    jobs, rule = set(), None
    for line in output.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] in ("rule", "localrule") and words[1].endswith(":"):
            rule = words[1][:-1]
            if rule == "all":
                rule = None
        elif words and words[0] == "output:" and rule is not None:
            path = words[1].rstrip(",").removeprefix("results/small/").removesuffix("/manifest.json")
            jobs.add(path)
            rule = None
    return jobs


def _make_workplace(folder, **options):
    copy_checkout(folder, **options)
    place = Workplace(folder)
    place.write_study(SMALL)
    return place


@pytest.fixture(scope="session")
def make_workplace():
    """A function that fills a folder with a copy of the checkout and the small study."""
    return _make_workplace


@pytest.fixture
def workplace(tmp_path):
    return _make_workplace(tmp_path)


@pytest.fixture
def study():
    """The small study, to be changed at will."""
    return copy.deepcopy(SMALL)
