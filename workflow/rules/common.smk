import json
import shlex
import sys
from pathlib import Path

from pipeline.config import load_study, specs
from pipeline.errors import PipelineError
from pipeline.runtime.code_digest import code_digest

# Jobs find `python` and `mpiexec` beside the interpreter that runs Snakemake, activated environment or not.
shell.prefix(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")

try:
    STUDY = load_study(config, default=Path(workflow.basedir) / "config" / "default.yaml")
except PipelineError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

SPECS = specs(STUDY)


def artefact(path, *names):
    """The manifests `results/STUDY/path` for each of the names in place of {}."""
    return [f"results/{STUDY.study}/{path}/manifest.json".format(name) for name in names]


def points_inputs(wildcards):
    """What the points of a matrix are made from, apart from their spec."""
    points = STUDY.matrices[wildcards.matrix].points
    if points.name != "embeddings":
        return {}
    return {
        "network": artefact("convert/{}", points.run),
        "dataset": artefact("dataset"),
    }


def option(name, path):
    """`--name path` for an input that not every job of a rule has."""
    return f"--{name} {path}" if path else ""


def report_inputs(wildcards):
    """Every artefact of the study."""
    runs = [f"{run}/seed{seed}" for run in STUDY.training.runs for seed in STUDY.seeds]
    return (
        artefact("dataset")
        + artefact("train/{}", *runs)
        + artefact("convert/{}", *STUDY.precision.runs)
        + artefact("time_layers/{}", *STUDY.precision.runs)
        + artefact("points/{}", *STUDY.matrices)
        + artefact("compress/{}", *STUDY.matrices)
        + artefact("solve/{}", *STUDY.matrices)
        + (artefact("scaling") if STUDY.scaling else [])
    )


wildcard_constraints:
    study=STUDY.study,
    run="|".join(STUDY.training.runs),
    matrix="|".join(STUDY.matrices) or "none",
    seed=r"\d+",
    section=r"[A-Za-z0-9_/-]+",
