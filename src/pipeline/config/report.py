"""The parts of a study that the report reads: names and words, but no option of any core."""

from typing import Any

from pydantic import Field, model_validator

from pipeline.config.section import Name, Section


class Roles(Section):
    """Which runs the claims of large-batch training compare."""

    reference: Name = Field(description="Small-batch SGD.")
    large_batch: Name = Field(description="Large-batch SGD.")
    second_order: Name = Field(description="Large-batch K-FAC.")
    smoothed: Name = Field(description="Large-batch K-FAC with a smoothed objective.")


class PredictSpec(Section):
    """The spec of the stage `predict`: the run whose noise is measured, for each method."""

    sweeps: dict[str, str]


class ReportSpec(Section):
    """The spec of the stage `report`: what the study made, by name.

    Training runs have labels, and `sweeps` the runs of each method, from the smallest batch to the largest; `converted`
    are runs and networks of files, and verdicts are compared with those of the studies `beside`.
    """

    study: str
    description: str
    seeds: dict[str, tuple[int, ...]]
    runs: dict[str, str]
    claims: Roles | None
    tuned: tuple[str, ...]
    sweeps: dict[str, tuple[str, ...]]
    converted: tuple[str, ...]
    matrices: tuple[str, ...]
    scaling: bool
    beside: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _read_common_seeds(cls, spec: Any) -> Any:
        """Read the spec of an older report, whose runs all had the same list of seeds."""
        if isinstance(spec, dict) and isinstance(spec.get("seeds"), list | tuple):
            return spec | {"seeds": dict.fromkeys(spec.get("runs", ()), spec["seeds"])}
        return spec

    def artefacts(self) -> list[str]:
        """Every artefact of the study except its report, by its path below the study's folder."""
        return [
            *(["dataset"] if self.runs else []),
            *(f"tune/{run}" for run in self.tuned),
            *(f"train/{run}/seed{seed}" for run, seeds in self.seeds.items() for seed in seeds),
            *(["predict"] if self.sweeps else []),
            *(f"{stage}/{run}" for stage in ("convert", "time_layers") for run in self.converted),
            *(f"{stage}/{name}" for stage in ("points", "compress", "solve") for name in self.matrices),
            *(["scaling"] if self.scaling else []),
        ]
