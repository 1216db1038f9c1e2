"""Make the outline of a study by validating it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.loading import load_study
from pipeline.config.points import Embeddings
from pipeline.config.specs import artefacts_of, specs
from pipeline.operations.kept_outline import Outline


def outline_of(config: Mapping[str, Any], default: Path) -> Outline:
    """Validate a study and return the data that its rules need; see `outline`."""
    study = load_study(config, default)
    parts = specs(study)
    return Outline(
        study=study.study,
        beside=dict(study.beside),
        seeds={run: list(seeds) for run, seeds in study.seeds_by_run().items()},
        runs=list(study.training.runs),
        tuned=study.training.tuned,
        matrices=list(study.matrices),
        embedded={
            name: matrix.points.run
            for name, matrix in study.matrices.items()
            if isinstance(matrix.points, Embeddings)
        },
        budget_points=study.precision.budget_points,
        networks=list(study.precision.networks),
        specs=parts,
        artefacts=artefacts_of(parts["report"]),
        files=study.files(),
    )
