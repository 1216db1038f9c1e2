"""The specs of a study: what each rule reads, and nothing else."""

from collections.abc import Mapping
from typing import Any

from pipeline.config.study import Study


def specs(study: Study) -> dict[str, dict[str, Any]]:
    """Cut a study into the specs that the rules read, by the path of each below `spec/`.

    What a rule does not read is not in its spec, so that changing it re-runs nothing that does not depend on it.
    """
    whole = study.model_dump(mode="json")
    parts: dict[str, dict[str, Any]] = {"dataset": whole["dataset"]}
    for name, run in whole["training"]["runs"].items():
        recipe = {key: value for key, value in run.items() if key != "label"}
        parts[f"training/{name}"] = {
            "run": recipe,
            "model": whole["model"],
            "device": study.device,
            "test": study.training.test,
        }
    parts["precision"] = {key: value for key, value in whole["precision"].items() if key != "runs"}
    for name, matrix in whole["matrices"].items():
        parts[f"points/{name}"] = {"points": matrix["points"]}
        parts[f"compress/{name}"] = {
            key: matrix[key] for key in ("kernel", "nugget", "task", "fit", "compress")
        }
        parts[f"solve/{name}"] = {key: matrix[key] for key in ("task", "factor", "solve")}
    if study.scaling is not None:
        parts["scaling"] = whole["scaling"]
    parts["report"] = {
        "study": study.study,
        "description": study.description,
        "seeds": list(study.seeds),
        "runs": {name: run["label"] or name for name, run in whole["training"]["runs"].items()},
        "claims": whole["training"]["claims"],
        "converted": list(study.precision.runs),
        "matrices": list(study.matrices),
        "scaling": study.scaling is not None,
    }
    return parts


def artefacts_of(report: Mapping[str, Any]) -> list[str]:
    """Every artefact of a study but its report, by its path below the study's folder.

    Args:
        report: The spec of the report.
    """
    trained = [f"train/{run}/seed{seed}" for run in report["runs"] for seed in report["seeds"]]
    halved = [f"{stage}/{run}" for stage in ("convert", "time_layers") for run in report["converted"]]
    solved = [f"{stage}/{name}" for stage in ("points", "compress", "solve") for name in report["matrices"]]
    return ["dataset", *trained, *halved, *solved, *(["scaling"] if report["scaling"] else [])]
