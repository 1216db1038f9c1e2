"""The numbers of a study, as the report reads them and as ``metrics.json`` holds them.

A study may lack training, matrices, half precision or a scaling series: a missing part is empty or ``None``.
Accuracies are fractions, times seconds, sizes bytes, unless the name of a key says otherwise. Non-finite numbers are
``None`` and print as a dash.
"""

from pydantic import BaseModel, ConfigDict, JsonValue

from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.results import Number
from pipeline.artifacts.results import half_network as half
from pipeline.artifacts.results.critical_batch import Prediction
from pipeline.artifacts.results.network import EpochRow, FactorFigures, Flatness, Score
from pipeline.artifacts.results.operator import Compression, FittedCovariance
from pipeline.artifacts.results.scaling import ScalingFacts, ScalingRow
from pipeline.artifacts.results.solution import Result, SolveCost
from pipeline.artifacts.results.tuning import TuningFacts
from pipeline.artifacts.results.work import LevelWork, ProcessWork
from pipeline.report.changes import Change


class MetricsPart(BaseModel):
    """A part of the metrics."""

    model_config = ConfigDict(frozen=True)


class Dataset(MetricsPart):
    """The images of a study."""

    name: str
    train_samples: int
    validation_samples: int
    test_samples: int
    classes: list[str]
    source: str


class ModelMetrics(MetricsPart):
    """The network of a study."""

    name: str
    n_parameters: int


class StudyMetrics(MetricsPart):
    """The subject of a study; without training there are neither images nor a network."""

    name: str
    description: str = ""
    seeds: list[int] = []
    dataset: Dataset | None = None
    model: ModelMetrics | None = None

    @property
    def classes(self) -> list[str]:
        """Names of the classes of the study's data; none where there are no images."""
        return self.dataset.classes if self.dataset is not None else []


class SeedResult(MetricsPart):
    """One run with one seed.

    Attributes:
        test: Missing while hyper-parameters are still being chosen.
        layers: State of K-FAC for each layer at the end.
        alone: Whether no other job of the study ran on its machine meanwhile; None where that is not known.
        diverged: How training diverged; empty where it did not. Where it did, all else is empty.
    """

    history: list[EpochRow] = []
    test: Score | None = None
    validation: Score | None = None
    train: Score | None = None
    sharpness: Flatness | None = None
    seconds: Number = None
    steps: int | None = None
    layers: dict[str, FactorFigures] = {}
    alone: bool | None = None
    diverged: str = ""


class RunMetrics(MetricsPart):
    """One way of training, over its seeds.

    Attributes:
        options: The training options of its networks, as in their spec.
    """

    label: str
    optimizer: str
    batch_size: int
    train_samples: int
    epochs: int
    smoothing: list[str] = []
    processes: int = 1
    options: dict[str, JsonValue] = {}
    tuning: TuningFacts | None = None
    seeds: dict[str, SeedResult]


class RoleMetrics(MetricsPart):
    """Which run plays which role in the claims about large batches."""

    reference: str | None = None
    large_batch: str | None = None
    second_order: str | None = None
    smoothed: str | None = None


class TimedPlan(half.PlanTest):
    """A plan that was timed; `verification` has its errors on the samples that it was chosen with."""

    verification: half.Verified | None = None


class Converted(MetricsPart):
    """One converted network.

    Attributes:
        plans: The timed plans, by batch size; empty for a network that was converted and not timed.
        mode: What ran before a layer that is timed in `timings`; `other_timings` has the other modes.
        candidates: The routines that could be chosen.
        device_timings: The GPU's table, if there is one.
        alone: Whether the layers were timed alone: no other job of the study ran on the machine, and no counted sample
            was disturbed by other work.
        generated_inputs: Whether the network's samples are noise.
    """

    seed: int | None
    budget_points: float
    file_bytes: half.FileBytes
    layers: list[half.LayerRow]
    plans: dict[str, TimedPlan] = {}
    mode: str = ""
    timings: list[half.TimingRow] = []
    other_timings: list[half.TimingRow] = []
    candidates: list[half.CandidateRow] = []
    device_timings: list[half.DeviceRow] = []
    roofs: half.RoofRow = half.RoofRow()
    alone: bool | None = None
    generated_inputs: bool = False


class StructureMetrics(MetricsPart):
    """Blocks in tree order: (first row, past last row, first column, past last column, rank or -1 if dense)."""

    n: int
    blocks: list[list[int]]


class Distribution(MetricsPart):
    """What each process of a stage held, did and sent, in all and level by level."""

    processes: list[ProcessWork]
    levels: list[LevelWork]


class MatrixMetrics(MetricsPart):
    """One hierarchical matrix, and its result if it was solved.

    Attributes:
        alone: Whether compression and solve ran alone, as for a seed's result.
        on_globe: Whether the points are longitudes and latitudes, so that lengths are in radii of the Earth.
    """

    kernel: str
    nugget: float
    nugget_at_bound: bool = False
    fit: FittedCovariance | None = None
    n: int
    dimension: int
    points: str
    task: str
    compress: Compression
    solve: SolveCost | None = None
    result: Result | None = None
    structure: StructureMetrics | None = None
    distribution: dict[str, Distribution] = {}
    alone: bool | None = None
    on_globe: bool = False

    @property
    def compression(self) -> float:
        """Dense over compressed bytes."""
        return self.compress.dense_bytes / max(self.compress.n_bytes, 1)

    @property
    def nothing_approximated(self) -> bool:
        """Whether all blocks are dense, so that the matrix is small for other reasons than its ranks."""
        if self.structure is not None and self.structure.blocks:
            return all(rank < 0 for *_, rank in self.structure.blocks)
        return self.compress.max_rank == 0


class ScalingMetrics(ScalingFacts):
    """Growth with the number of points; `alone` means the same as for a seed's result."""

    rows: list[ScalingRow]
    alone: bool | None = None


class RuleCost(MetricsPart):
    """One job, from Snakemake's benchmark file."""

    rule: str
    job: str
    seconds: Number
    max_rss_mb: Number


class HistoryMetrics(MetricsPart):
    """The study against its past: how much was compared, what changed, and the commits since.

    Attributes:
        respecified: Artefacts whose options, or whose inputs' options, differ from those of the run before.
    """

    n_figures: int
    n_artefacts: int
    n_runs: int
    changes: list[Change]
    commits: list[str]
    respecified: list[str] = []


class Missing(MetricsPart):
    """An artefact that a study with failed jobs lacks, by its path below the study's folder, and the reason."""

    artefact: str
    reason: str


class Origin(Provenance):
    """Who made the study's report, and of what.

    Attributes:
        uncommitted: The files of the code that are new or differ from the commit.
    """

    uncommitted: tuple[str, ...] = ()


class Metrics(MetricsPart):
    """Everything that a study found.

    Attributes:
        beside: The metrics of the studies beside it, by their names.
    """

    study: StudyMetrics
    missing: list[Missing] = []
    training: dict[str, RunMetrics] = {}
    claims_of: RoleMetrics | None = None
    sweeps: dict[str, list[str]] = {}
    predictions: dict[str, Prediction] = {}
    precision: dict[str, Converted] = {}
    matrices: dict[str, MatrixMetrics] = {}
    scaling: ScalingMetrics | None = None
    rules: list[RuleCost] = []
    provenance: Origin = Origin()
    history: HistoryMetrics | None = None
    beside: "dict[str, Metrics]" = {}
