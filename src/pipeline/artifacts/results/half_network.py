"""Facts of a network at half precision, and the rows of its tables."""

from pydantic import BaseModel

from pipeline.artifacts.results import Facts, Number

Interval = tuple[float, float]


class FileBytes(BaseModel):
    """Sizes of the files at both precisions."""

    fp32: int
    fp16: int


class Accuracy(BaseModel):
    """Accuracy at both precisions with 95 % intervals, and the percentage points that half precision loses."""

    fp32: float
    fp16: float
    interval_fp32: Interval | None = None
    interval_fp16: Interval | None = None
    points_lost: Number = None
    interval_lost: Interval | None = None
    n_samples: int
    n_changed: int


class HalfNetworkFacts(Facts):
    """A converted network.

    Attributes:
        seed: Seed of the training; None for a file.
        n_saturated: Activations of the test samples that were too large for FP16.
        budget_points: Loss of accuracy that the conversion was allowed, in percentage points.
        accuracy: Accuracy on the test samples; None without labels.
        generated_inputs: Whether its samples are noise from `new`, so that errors tell nothing of real samples.
    """

    run: str
    seed: int | None
    n_saturated: int
    budget_points: float
    file_bytes: FileBytes
    accuracy: Accuracy | None = None
    generated_inputs: bool = False


class Verified(BaseModel):
    """Errors of a plan on the samples that it was chosen with; see `pipeline.precision.selection.Verification`."""

    n_samples: int
    output_error: Number
    varying_error: Number = None
    points: Number = None
    n_changed: int


class TimingsFacts(Facts):
    """A converted network timed layer by layer; all figures are those of the plans, by batch size.

    Plans are verified on the samples that they were chosen with; accuracy is that on test samples with known classes.
    """

    run: str
    verification: dict[str, Verified]
    accuracy: dict[str, Accuracy]


class LayerErrorRow(BaseModel):
    """Distance of a network from float64 after a layer; see `pipeline.precision.error.LayerError`."""

    layer: str
    relative_error: Number
    sqnr_db: Number
    added_error: Number
    growth: Number
    largest: Number
    n_saturated: int
    n_subnormal: int
    n_flushed: int
    n_results: int


class ChangedRow(BaseModel):
    """A sample that is classified differently; see `pipeline.precision.predictions.ChangedPrediction`."""

    sample: int
    label: int
    before: int
    after: int
    margin: Number


class Answers(BaseModel):
    """Examples of changed answers, and counts of samples by class and answer at both precisions."""

    changed: list[ChangedRow] = []
    confusion_before: list[list[int]] = []
    confusion_after: list[list[int]] = []


class PlanTest(BaseModel):
    """A plan on the test samples: the errors of its layers, and its answers where classes are known."""

    errors: list[LayerErrorRow]
    n_saturated: int
    accuracy: Accuracy | None
    predictions: Answers | None


class LayerRow(BaseModel):
    """A converted layer; see `pipeline.precision.plan.RoundingReport` for what rounding did to its weights.

    A layer without weights, or with weights kept at float32, has no rounding figures.
    """

    name: str
    kind: str
    routine: str
    weight_dtype: str
    n_parameters: int
    flops: int
    output_error: Number
    output_sqnr_db: Number
    sqnr_db: Number = None
    relative_error: Number = None
    n_overflow: int | None = None
    n_subnormal: int | None = None
    n_flushed: int | None = None


class ConvertedLayer(LayerRow):
    """A converted layer with all its figures, of which the page shows a part."""

    activations: LayerErrorRow
    worst_channel_error: Number = None
    n_weights: int | None = None
    n_scaled: int | None = None
    scale_exponent_min: int | None = None
    scale_exponent_max: int | None = None


class TimingRow(BaseModel):
    """A timed layer; the page shows these fields of `pipeline.precision.layer_timing.LayerTiming`."""

    layer: str
    batch: int
    mode: str
    routine_fp32: str
    routine_fp16: str
    seconds_fp32: float
    seconds_fp16: float
    speedup: Number
    interval: Interval | None
    predicted_speedup: Number
    predicted_seconds_fp16: Number
    bound_seconds_fp32: Number = None
    bound_seconds_fp16: Number = None
    flops: float
    executed_flops: float
    bytes_fp32: float
    bytes_fp16: float
    traffic_fp16: dict[str, float]
    intensity: Number
    gflops: Number
    gbytes: Number
    bound: str
    reason: str
    n_disturbed: int


class CandidateRow(BaseModel):
    """A routine that could run a layer, with the error that it adds."""

    layer: str
    batch: int
    routine: str
    seconds: Number
    error: Number
    chosen: bool


class DeviceRow(BaseModel):
    """A layer on a GPU; see `pipeline.precision.devices.DeviceTiming`."""

    layer: str
    batch: int
    device: str
    precision: str
    memory_format: str
    seconds: float
    speedup: Number
    relative_error: Number
    kernels: list[str]
    tensor_cores: bool | None


class RoofRow(BaseModel):
    """Ceilings of one core: GFLOP/s, and GB/s by memory level."""

    instruction_set: str = ""
    gflops: Number = None
    pair_gflops: Number = None
    bandwidth: dict[str, float] = {}
