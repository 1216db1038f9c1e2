"""The specs of a study: each holds exactly what one rule reads."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pipeline.config.matrices import CompressSpec, SolveSpec
from pipeline.config.points import PointsSpec
from pipeline.config.precision import Timing
from pipeline.config.report import PredictSpec, ReportSpec
from pipeline.config.section import Section
from pipeline.config.study import Study
from pipeline.config.training import RunSpec, TrainingSpec, TuningSpec

S = TypeVar("S", bound=Section)


def specs(study: Study) -> dict[str, dict[str, Any]]:
    """Cut a study into the specs that the rules read, as JSON can hold them, by their paths below `spec/`."""
    parts: dict[str, Section] = {}
    if study.training.runs:
        parts["dataset"] = study.dataset
    if study.training.runs or study.precision.networks:
        parts["precision"] = _part(Timing, study.precision)
    parts |= {f"networks/{name}": network for name, network in study.precision.networks.items()}
    for name, run in study.training.runs.items():
        parts[f"training/{name}"] = TrainingSpec(
            run=_part(RunSpec, run), model=study.model, device=study.device, test=study.training.test
        )
    for name in study.training.tuned:
        run = study.training.runs[name]
        parts[f"tuning/{name}"] = TuningSpec(
            run=_part(RunSpec, run),
            search=run.search,
            trials=study.training.trials,
            final_seeds=study.training.final_seeds,
            seed=study.training.tuning_seed,
            model=study.model,
            device=study.device,
        )
    if study.training.sweeps:
        parts["predict"] = PredictSpec(sweeps={name: runs[0] for name, runs in study.training.sweeps.items()})
    for name, matrix in study.matrices.items():
        parts[f"points/{name}"] = PointsSpec(points=matrix.points)
        parts[f"compress/{name}"] = _part(CompressSpec, matrix)
        parts[f"solve/{name}"] = _part(SolveSpec, matrix)
    if study.scaling is not None:
        parts["scaling"] = study.scaling
    parts["report"] = ReportSpec(
        study=study.study,
        description=study.description,
        seeds=study.seeds_by_run(),
        runs={name: run.label or name for name, run in study.training.runs.items()},
        claims=study.training.claims,
        tuned=tuple(study.training.tuned),
        sweeps=study.training.sweeps,
        converted=(*study.precision.runs, *study.precision.networks),
        matrices=tuple(study.matrices),
        scaling=study.scaling is not None,
        beside=tuple(study.beside),
    )
    return {path: spec.model_dump(mode="json") for path, spec in parts.items()}


def artefacts_of(report: Mapping[str, Any]) -> list[str]:
    """Every artefact of a study except its report, by its path below the study's folder, from the report's spec."""
    return ReportSpec.model_validate(report).artefacts()


def _part(kind: type[S], section: Section) -> S:
    """Return the fields of a section that another kind of section has too."""
    return kind.model_validate({key: getattr(section, key) for key in kind.model_fields})
