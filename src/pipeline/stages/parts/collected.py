"""The numbers and arrays of a study's page, collected from its artefacts."""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, JsonValue

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
from pipeline.config.report import ReportSpec, Roles
from pipeline.data.own_points import System
from pipeline.report import metrics as page
from pipeline.report.runs import SECOND_ORDER

Networks = Iterable[tuple[Artifact, NetworkFacts]]
#: Whether the job of an artefact had its machine to itself; None where that is not known.
Alone = Callable[[Artifact], bool | None]

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
    alone = partial(_alone, spans)
    trained = {facts.run for _, facts in networks}
    metrics = page.Metrics(
        missing=list(missing),
        study=page.StudyMetrics(
            name=spec.study,
            description=spec.description,
            seeds=list(dict.fromkeys(chain.from_iterable(spec.seeds.values()))) if networks else [],
            dataset=page.Dataset.model_validate(dataset, from_attributes=True) if dataset else None,
            model=_model(*networks[0]) if networks else None,
        ),
        training={
            name: _run(name, label, networks, dataset.train_samples, tunings.get(name), alone)
            for name, label in spec.runs.items()
            if dataset is not None and name in trained
        },
        claims_of=_roles(spec.claims, trained) if spec.claims else None,
        sweeps={method: [run for run in runs if run in trained] for method, runs in spec.sweeps.items()},
        predictions=next(
            (a.facts_as(CriticalBatchFacts).methods for _, a in found.get("critical_batch", [])), {}
        ),
        precision={
            name: _converted(network, timings.get(name), alone)
            for name, network in found.get("half_network", [])
        },
        matrices={
            name: _matrix(points[name], operator, solutions.get(name), alone)
            for name, operator in operators.items()
        },
        scaling=next((_scaling(scaling, alone) for _, scaling in found.get("scaling", [])), None),
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


def _span(artifact: Artifact) -> Span | None:
    return Span.of(artifact.provenance)


def _alone(spans: list[Span], artifact: Artifact) -> bool | None:
    return ran_alone(_span(artifact), spans)


def _scaling(scaling: Artifact, alone: Alone) -> page.ScalingMetrics:
    facts = scaling.facts_as(ScalingFacts)
    return page.ScalingMetrics(**dict(facts), rows=scaling.rows_as("rows", ScalingRow), alone=alone(scaling))


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

    run: dict[str, JsonValue]
    model: _Named


class _Timed(BaseModel):
    modes: list[str]


class _Task(BaseModel):
    task: str


def _model(network: Artifact, facts: NetworkFacts) -> page.ModelMetrics:
    return page.ModelMetrics(name=network.spec_as(_Trained).model.name, n_parameters=facts.n_parameters)


def _roles(claims: Roles, trained: Collection[str]) -> page.RoleMetrics:
    """The roles of those runs that were trained."""
    reference, large_batch, second_order, smoothed = (
        run if run in trained else None
        for run in (claims.reference, claims.large_batch, claims.second_order, claims.smoothed)
    )
    return page.RoleMetrics(
        reference=reference, large_batch=large_batch, second_order=second_order, smoothed=smoothed
    )


def _run(
    name: str,
    label: str,
    networks: Networks,
    train_samples: int,
    tuning: TuningFacts | None,
    alone: Alone,
) -> page.RunMetrics:
    mine = [(network, facts) for network, facts in networks if facts.run == name]
    options = mine[0][0].spec_as(_Trained).run
    recipe = _Recipe.model_validate(options)
    return page.RunMetrics(
        label=label,
        optimizer=recipe.optimizer.name,
        batch_size=recipe.batch_size,
        train_samples=recipe.train_samples or train_samples,
        epochs=recipe.epochs,
        smoothing=[smoothing.in_words() for smoothing in recipe.smoothing],
        processes=mine[0][1].processes,
        options=options,
        tuning=tuning,
        seeds={str(facts.seed): _seed(recipe, network, facts, alone(network)) for network, facts in mine},
    )


def _seed(recipe: _Recipe, network: Artifact, facts: NetworkFacts, alone: bool | None) -> page.SeedResult:
    if facts.failure:
        # The epochs before it diverged are no result to compare others with.
        return page.SeedResult(diverged=facts.failure, alone=alone)
    return page.SeedResult(
        history=network.rows_as("history", EpochRow),
        test=facts.scores.get("test"),
        validation=facts.scores.get("validation"),
        train=facts.scores.get("train"),
        sharpness=facts.sharpness,
        seconds=facts.seconds,
        steps=facts.steps,
        layers=network.values_as("layers", FactorFigures) if recipe.optimizer.name in SECOND_ORDER else {},
        alone=alone,
    )


def _converted(converted: Artifact, timed: Artifact | None, alone: Alone) -> page.Converted:
    """One converted network, with the times of its layers if they were taken."""
    facts = converted.facts_as(HalfNetworkFacts)
    found = page.Converted(
        seed=facts.seed,
        budget_points=facts.budget_points,
        file_bytes=facts.file_bytes,
        layers=converted.rows_as("layers", LayerRow),
        generated_inputs=facts.generated_inputs,
    )
    if timed is None:
        return found
    verification = timed.facts_as(TimingsFacts).verification
    rows, shown = timed.rows_as("timings", TimingRow), timed.spec_as(_Timed).modes[0]
    on_device = timed.keeps("device_timings.json")
    # Samples that count although they were disturbed show work that no manifest tells of.
    disturbed = any(row.n_disturbed for row in rows)
    return page.Converted(
        **found.model_dump(exclude_unset=True),
        plans={
            batch: page.TimedPlan(**dict(tested), verification=verification[batch])
            for batch, tested in timed.values_as("tests", PlanTest).items()
        },
        mode=shown,
        timings=[row for row in rows if row.mode == shown],
        other_timings=[row for row in rows if row.mode != shown],
        candidates=timed.rows_as("candidates", CandidateRow),
        device_timings=timed.rows_as("device_timings", DeviceRow) if on_device else [],
        roofs=timed.json_as("roofs", RoofRow),
        alone=False if disturbed else alone(timed),
    )


def _matrix(
    points: Artifact, operator: Artifact, solution: Artifact | None, alone: Alone
) -> page.MatrixMetrics:
    where, compressed = points.facts_as(PointsFacts), operator.facts_as(OperatorFacts)
    solved = solution.facts_as(SolutionFacts) if solution is not None else None
    stages = {"compress": operator} | ({"solve": solution} if solution is not None else {})
    return page.MatrixMetrics(
        kernel=compressed.kernel,
        nugget=compressed.nugget,
        nugget_at_bound=compressed.nugget_at_bound,
        fit=compressed.fit,
        n=where.n,
        dimension=where.dimension,
        points=where.name,
        task=operator.spec_as(_Task).task,
        compress=compressed.compress,
        solve=solved.solve if solved else None,
        result=solved.result if solved else None,
        structure=page.StructureMetrics(
            n=compressed.compress.n_rows, blocks=operator.array("blocks").tolist()
        ),
        distribution={
            stage: page.Distribution(
                processes=artifact.rows_as("processes", ProcessWork),
                levels=artifact.rows_as("process_levels", LevelWork),
            )
            for stage, artifact in stages.items()
            if artifact.keeps("process_levels.json") or artifact.keeps("process_levels.csv")
        },
        alone=alone(operator) is not False and alone(solution or operator),
        on_globe=System.of(where.crs).to_degrees is not None or where.crs == "lonlat",
    )
