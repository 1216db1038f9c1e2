"""The numbers and arrays of a study's page, collected from its artefacts."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pipeline.artifacts.overlap import Span, ran_alone
from pipeline.artifacts.results.critical_batch import CriticalBatchFacts
from pipeline.artifacts.results.half_network import (
    CandidateRow,
    DeviceRow,
    HalfNetworkFacts,
    LayerRow,
    PlanTest,
    RoofRow,
    TimingRow,
    TimingsFacts,
)
from pipeline.artifacts.results.images import ImagesFacts
from pipeline.artifacts.results.network import EpochRow, FactorFigures, NetworkFacts
from pipeline.artifacts.results.operator import OperatorFacts
from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.results.scaling import ScalingFacts, ScalingRow
from pipeline.artifacts.results.solution import SolutionFacts
from pipeline.artifacts.results.tuning import TuningFacts
from pipeline.artifacts.results.work import LevelWork, ProcessWork
from pipeline.artifacts.store import Artifact
from pipeline.config.report import ReportSpec
from pipeline.data.own_points import System
from pipeline.report import metrics as page
from pipeline.report.runs import SECOND_ORDER

Networks = Iterable[tuple[Artifact, NetworkFacts]]

# Arrays of a solution that the page draws: held-out places and the map, or the far field of a wave.
MAP_ARRAYS = (
    "longitude", "latitude", "values", "predicted", "std", "grid_longitude", "grid_latitude", "grid",
    "grid_std", "x", "y", "grid_x", "grid_y", "coverage_level", "coverage_found", "variogram_distance",
    "variogram_values", "variogram_residuals", "angle", "far_field", "direction",
)  # fmt: skip


def collect(
    spec: ReportSpec,
    found: Mapping[str, list[tuple[str, Artifact]]],
    rules: list[page.RuleCost],
    origin: page.Origin,
    history: page.HistoryMetrics | None = None,
    missing: Iterable[page.Missing] = (),
    beside: Mapping[str, page.Metrics] | None = None,
) -> tuple[page.Metrics, dict[str, NDArray[Any]]]:
    """Gather the numbers and arrays that the page shows; missing artefacts are left out everywhere."""
    networks = [(artifact, artifact.facts_as(NetworkFacts)) for _, artifact in found.get("network", [])]
    dataset = next((artifact.facts_as(ImagesFacts) for _, artifact in found.get("dataset", [])), None)
    operators, solutions = dict(found.get("operator", [])), dict(found.get("solution", []))
    points, timings = dict(found.get("points", [])), dict(found.get("timings", []))
    tunings = {name: artifact.facts_as(TuningFacts) for name, artifact in found.get("tuning", [])}
    spans = [span for kind in found.values() for _, artifact in kind if (span := _span(artifact)) is not None]
    trained = {facts.run for _, facts in networks}
    metrics = page.Metrics(
        missing=list(missing),
        study=page.StudyMetrics(
            name=spec.study,
            description=spec.description,
            seeds=list(dict.fromkeys(chain.from_iterable(spec.seeds.values()))) if networks else [],
            dataset=dataset and page.Dataset(**dataset.model_dump(include=set(page.Dataset.model_fields))),
            model=page.ModelMetrics(
                name=networks[0][0].spec_as(_Trained).model.name, n_parameters=networks[0][1].n_parameters
            )
            if networks
            else None,
        ),
        training={
            name: _run(name, label, networks, dataset.train_samples, tunings.get(name), spans)
            for name, label in spec.runs.items()
            if dataset is not None and name in trained
        },
        claims_of=spec.claims
        and page.RoleMetrics(
            **{role: run for role, run in spec.claims.model_dump().items() if run in trained}
        ),
        sweeps={method: [run for run in runs if run in trained] for method, runs in spec.sweeps.items()},
        predictions=next(
            (dict(a.facts_as(CriticalBatchFacts).methods) for _, a in found.get("critical_batch", [])), {}
        ),
        precision={
            name: _converted(network, timings.get(name), spans)
            for name, network in found.get("half_network", [])
        },
        matrices={
            name: _matrix(points[name], operator, solutions.get(name), spans)
            for name, operator in operators.items()
        },
        scaling=next((_scaling(scaling, spans) for _, scaling in found.get("scaling", [])), None),
        rules=rules,
        provenance=origin,
        history=history,
        beside=dict(beside or {}),
    )
    arrays = {
        f"{name}/{array}": solution.array(array)
        for name, solution in solutions.items()
        for array in MAP_ARRAYS
        if solution.has(array)
    }
    for name, solution in solutions.items():
        if solution.has("direction"):  # a wave: the page shows the surface that scatters it
            arrays |= {f"{name}/{array}": points[name].array(array) for array in ("vertices", "triangles")}
            arrays[f"{name}/solution"] = solution.array("solution")
    return metrics, arrays


def _scaling(scaling: Artifact, spans: list[Span]) -> page.ScalingMetrics:
    facts = scaling.facts_as(ScalingFacts)
    alone = ran_alone(_span(scaling), spans)
    return page.ScalingMetrics(**facts.model_dump(), rows=scaling.rows_as("rows", ScalingRow), alone=alone)


class _Named(BaseModel):
    """A section of a spec with its options."""

    model_config = ConfigDict(extra="allow")

    name: str

    def in_words(self) -> str:
        """Write `{name: mixup, alpha: 0.4}` as "mixup (alpha 0.4)"."""
        values = ", ".join(f"{key} {value}" for key, value in (self.model_extra or {}).items())
        return f"{self.name.replace('_', ' ')} ({values})"


class _Recipe(BaseModel):
    """The part of a training run's spec that the page shows."""

    optimizer: _Named
    batch_size: int
    train_samples: int | None
    epochs: int
    smoothing: list[_Named]


class _Trained(BaseModel):
    """The part of a trained network's spec that the page shows, so that the page needs no code that trains."""

    run: _Recipe
    model: _Named


class _Timed(BaseModel):
    modes: list[str]


class _Task(BaseModel):
    task: str


def _span(artifact: Artifact) -> Span | None:
    return Span.of(artifact.provenance)


def _run(
    name: str,
    label: str,
    networks: Networks,
    train_samples: int,
    tuning: TuningFacts | None,
    spans: list[Span],
) -> page.RunMetrics:
    mine = [(network, facts) for network, facts in networks if facts.run == name]
    recipe = mine[0][0].spec_as(_Trained).run
    return page.RunMetrics(
        label=label,
        optimizer=recipe.optimizer.name,
        batch_size=recipe.batch_size,
        train_samples=recipe.train_samples or train_samples,
        epochs=recipe.epochs,
        smoothing=[smoothing.in_words() for smoothing in recipe.smoothing],
        processes=mine[0][1].processes,
        options=mine[0][0].manifest["spec"]["run"],
        tuning=tuning,
        seeds={str(facts.seed): _seed(recipe, network, facts, spans) for network, facts in mine},
    )


def _seed(recipe: _Recipe, network: Artifact, facts: NetworkFacts, spans: list[Span]) -> page.SeedResult:
    if facts.failure:
        # The epochs before it diverged are no result to compare others with.
        return page.SeedResult(diverged=facts.failure, alone=ran_alone(_span(network), spans))
    return page.SeedResult(
        history=network.rows_as("history", EpochRow),
        **{part: facts.scores.get(part) for part in ("test", "validation", "train")},
        sharpness=facts.sharpness,
        seconds=facts.seconds,
        steps=facts.steps,
        layers=network.values_as("layers", FactorFigures) if recipe.optimizer.name in SECOND_ORDER else {},
        alone=ran_alone(_span(network), spans),
    )


def _converted(converted: Artifact, timed: Artifact | None, spans: list[Span]) -> page.Converted:
    """One converted network, with the times of its layers if they were taken."""
    facts = converted.facts_as(HalfNetworkFacts)
    found = page.Converted(
        **facts.model_dump(include={"seed", "budget_points", "file_bytes", "generated_inputs"}),
        layers=converted.rows_as("layers", LayerRow),
    )
    if timed is None:
        return found
    verification = timed.facts_as(TimingsFacts).verification
    rows, shown = timed.rows_as("timings", TimingRow), timed.spec_as(_Timed).modes[0]
    on_device = timed.keeps("device_timings.json")
    # Samples that count although they were disturbed show work that no manifest tells of.
    disturbed = any(row.n_disturbed for row in rows)
    times = {
        "plans": {
            batch: page.TimedPlan(**dict(tested), verification=verification[batch])
            for batch, tested in timed.values_as("tests", PlanTest).items()
        },
        "mode": shown,
        "timings": [row for row in rows if row.mode == shown],
        "other_timings": [row for row in rows if row.mode != shown],
        "candidates": timed.rows_as("candidates", CandidateRow),
        "device_timings": timed.rows_as("device_timings", DeviceRow) if on_device else [],
        "roofs": timed.json_as("roofs", RoofRow),
        "alone": False if disturbed else ran_alone(_span(timed), spans),
    }
    return found.model_copy(update=times)


def _matrix(
    points: Artifact, operator: Artifact, solution: Artifact | None, spans: list[Span]
) -> page.MatrixMetrics:
    where, compressed = points.facts_as(PointsFacts), operator.facts_as(OperatorFacts)
    solved = solution.facts_as(SolutionFacts) if solution is not None else None
    return page.MatrixMetrics(
        **compressed.model_dump(include={"kernel", "nugget", "nugget_at_bound", "fit", "compress"}),
        **where.model_dump(include={"n", "dimension"}),
        on_globe=System.of(where.crs).to_degrees is not None or where.crs == "lonlat",
        points=where.name,
        task=operator.spec_as(_Task).task,
        solve=solved and solved.solve,
        result=solved and solved.result,
        structure=page.StructureMetrics(
            n=compressed.compress.n_rows, blocks=operator.array("blocks").tolist()
        ),
        distribution={
            stage: page.Distribution(
                processes=artifact.rows_as("processes", ProcessWork),
                levels=artifact.rows_as("process_levels", LevelWork),
            )
            for stage, artifact in (("compress", operator), ("solve", solution))
            if artifact is not None
            and (artifact.keeps("process_levels.json") or artifact.keeps("process_levels.csv"))
        },
        alone=ran_alone(_span(operator), spans) is not False
        and ran_alone(_span(solution or operator), spans),
    )
