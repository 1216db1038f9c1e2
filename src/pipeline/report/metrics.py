"""The numbers that a study leaves behind, as the report reads them and as ``metrics.json`` holds them.

Every key may be missing or ``None``: a study without matrices, without half precision, with one seed or
without a scaling series is a study too. Accuracies are fractions, times seconds, sizes bytes, unless the
name of a key says otherwise. Non-finite numbers are written to JSON as ``null`` and print as a dash.
"""

from typing import Any, Literal, TypedDict


class Dataset(TypedDict, total=False):
    name: str
    train_samples: int
    validation_samples: int
    test_samples: int
    classes: list[str]
    source: str


class Model(TypedDict, total=False):
    name: str
    n_parameters: int


class Study(TypedDict, total=False):
    name: str
    description: str
    seeds: list[int]
    dataset: Dataset
    model: Model


class Epoch(TypedDict, total=False):
    """One row of a history; ``steps`` counts optimizer steps since the start."""

    epoch: int
    steps: int
    seconds: float
    train_loss: float | None
    train_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    gap: float | None


class Score(TypedDict, total=False):
    loss: float | None
    accuracy: float | None


class Sharpness(TypedDict, total=False):
    """Of the minimum found; see :class:`pipeline.training.sharpness.Sharpness`."""

    largest_eigenvalue: float | None
    perturbation: float | None
    n_samples: int


class SeedResult(TypedDict, total=False):
    """One run with one seed.

    ``test`` is missing where hyper-parameters are still being chosen. ``kfac`` holds counters of the preconditioner
    by name (``n_...``), its last ``step_size``, ``damping``, ``factor_age`` and ``inverse_age`` (in steps), and figures
    of its ``layers``; ``phases`` seconds by part of a run; ``messages`` bytes and calls by collective operation, of
    process 0.
    """

    history: list[Epoch]
    test: Score
    validation: Score
    train: Score
    sharpness: Sharpness
    seconds: float
    steps: int
    kfac: dict[str, Any] | None
    phases: dict[str, float]
    messages: dict[str, dict[str, int]]


class Run(TypedDict, total=False):
    label: str
    optimizer: str
    batch_size: int
    train_samples: int
    epochs: int
    smoothing: list[str]
    processes: int
    seeds: dict[str, SeedResult]


class Roles(TypedDict, total=False):
    """Which run plays which part in the claims about large batches."""

    reference: str | None
    large_batch: str | None
    second_order: str | None
    smoothed: str | None


class HalfAccuracy(TypedDict, total=False):
    fp32: float | None
    fp16: float | None
    points_lost: float
    interval_lost: list[float]
    n_samples: int
    n_changed: int


class Layer(TypedDict, total=False):
    """One converted layer; ``sqnr_db`` and ``relative_error`` are of its weights."""

    name: str
    kind: str
    routine: str
    n_parameters: int
    flops: float
    sqnr_db: float | None
    relative_error: float | None
    n_overflow: int
    n_subnormal: int
    n_flushed: int


class LayerError(TypedDict, total=False):
    """How far one layer's results are from float64, in the 2-norm.

    ``added_error`` for exact inputs, ``relative_error`` and ``sqnr_db`` with what the layers before it add.
    """

    layer: str
    relative_error: float | None
    sqnr_db: float | None
    added_error: float | None
    growth: float | None
    largest: float | None
    n_saturated: int
    n_subnormal: int
    n_flushed: int
    n_results: int


class Plan(TypedDict, total=False):
    """One plan that was timed, on test samples; ``verification`` is what it loses on those it was chosen with.

    ``n_saturated`` activations were too large for FP16; ``predictions`` tells which answers changed.
    """

    errors: list[LayerError]
    n_saturated: int
    accuracy: HalfAccuracy | None
    predictions: dict[str, Any] | None
    verification: dict[str, Any]


class Timing(TypedDict, total=False):
    """One layer at one batch size; ``flops`` and bytes are those of the whole batch.

    ``interval`` is the bootstrap interval of ``speedup``; the other two are those of the times.
    """

    layer: str
    kind: str
    batch: int
    mode: str
    routine: str
    routine_fp32: str
    routine_fp16: str
    seconds_fp32: float
    seconds_fp16: float
    interval_fp32: list[float]
    interval_fp16: list[float]
    speedup: float
    interval: list[float]
    predicted_speedup: float | None
    predicted_seconds_fp16: float
    flops: float
    executed_flops: float
    bytes_fp32: float
    bytes_fp16: float
    intensity: float
    gflops: float
    gbytes: float
    bound: str
    reason: str


class Roofs(TypedDict, total=False):
    """Ceilings of one core: GFLOP/s, and GB/s by memory level (L1, L2, L3, DRAM)."""

    gflops: float
    bandwidth: dict[str, float]
    instruction_set: str


class Precision(TypedDict, total=False):
    """One converted network.

    ``timings`` are those of ``mode``, ``other_timings`` those of the others; ``plans``, by batch size, are what they
    were taken of. ``candidates`` are what routines were chosen from and ``device_timings`` is the GPU's table, if there
    is one.
    """

    seed: int
    budget_points: float
    file_bytes: dict[str, int]
    layers: list[Layer]
    plans: dict[str, Plan]
    mode: str
    timings: list[Timing]
    other_timings: list[Timing]
    candidates: list[dict[str, Any]]
    device_timings: list[dict[str, Any]]
    roofs: Roofs


class Level(TypedDict, total=False):
    level: int
    boxes: int
    unknowns: int
    skeletons: int
    seconds: float
    bytes: int


class Compress(TypedDict, total=False):
    """``n_rows`` of the compressed matrix (quadrature points for boundary elements, else ``n``).

    ``dense_bytes`` are those of the dense alternative; ``symmetric``: mirrored blocks are kept once; ``precision``:
    that of the numbers kept, "float32" or "float64"; ``missed``: the error is well above the tolerance.
    """

    n_rows: int
    missed: bool
    notes: list[str]
    seconds: float
    n_bytes: int
    dense_bytes: int
    symmetric: bool
    precision: str
    tolerance: float
    relative_error: float | None
    max_rank: int
    levels: list[Level]


class Solve(TypedDict, total=False):
    """``relative_residual`` is that of the compressed matrix, ``exact_residual`` of sampled rows of the exact one.

    ``difference_to_one_process``: of one distributed product, relative to that of one process.
    """

    exact_residual: float | None
    notes: list[str]
    factorize_seconds: float
    factor_bytes: int
    factor_tolerance: float
    solve_seconds: float
    iterations: int
    relative_residual: float | None
    logdet: float | None
    processes: int
    difference_to_one_process: float | None


class Structure(TypedDict, total=False):
    """Blocks in tree order: (first row, past last row, first column, past last column, rank or -1 = dense)."""

    n: int
    blocks: list[list[int]]
    levels: list[Any]


class Matrix(TypedDict, total=False):
    """One hierarchical matrix. The keys of ``result`` depend on ``task``.

    kriging: quantity ("elevation", "log10 population"), rmse, rmse_mean_predictor, unit, n_held_out,
    log_likelihood;
    capacitance: capacitance, reference, relative_error, unit;
    classification: accuracy, softmax_accuracy, n_test.
    """

    kernel: str
    nugget: float
    nugget_at_bound: bool
    n: int
    dimension: int
    points: str
    task: Literal["kriging", "capacitance", "classification"] | str
    compress: Compress
    solve: Solve
    result: dict[str, Any]
    structure: Structure


class ScalingRow(TypedDict, total=False):
    n: int
    compress_seconds: float
    factorize_seconds: float
    product_seconds: float
    solve_seconds: float
    operator_bytes: int
    factor_bytes: int
    relative_error: float | None


class Scaling(TypedDict, total=False):
    kernel: str
    points: str
    tolerance: float
    rows: list[ScalingRow]


class RuleCost(TypedDict, total=False):
    """One job, as Snakemake's benchmark file tells it."""

    rule: str
    job: str
    seconds: float | None
    max_rss_mb: float | None


class Changed(TypedDict, total=False):
    """A figure beyond the noise of past runs; see `pipeline.report.changes.Change`."""

    artefact: str
    figure: str
    value: float
    typical: float
    low: float
    high: float
    n: int
    verdict: str


class History(TypedDict, total=False):
    """The study against its past: how much was compared, what moved, and the commits since."""

    n_figures: int
    n_artefacts: int
    n_runs: int
    changes: list[Changed]
    commits: list[str]


class Metrics(TypedDict, total=False):
    study: Study
    training: dict[str, Run]
    claims_of: Roles | None
    precision: dict[str, Precision]
    matrices: dict[str, Matrix]
    scaling: Scaling | None
    rules: list[RuleCost]
    history: History | None
    provenance: dict[str, Any]
