"""What engines really ran for an ONNX network: their own profiles, brought into rows of one form."""

import importlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.precision import HalfNetwork, Sampling, onnx_module

N_RUNS = 20
MOVING = ("Cast", "Reorder", "Convert", "Transpose", "ReorderInput", "ReorderOutput", "copy by place")


@dataclass(frozen=True)
class Row:
    """One layer as an engine ran it.

    Attributes:
        layer: The engine's name for it.
        kernel: What ran in half precision, by the engine's own account; at float32 if it ran there only.
        kernel_fp32: What ran at float32.
        seconds_fp32: Median at float32; None if there was no such layer.
        seconds_half: Median in half precision; None if there was no such layer.
        n_bytes: Moved in half precision, at least; None where the engine doesn't say.
        flops: FLOPs of the layer's definition; None where the engine doesn't say.
        bound: What limits it; empty where the engine doesn't say.
        error: What the layer's result is off by, relative to float64; None where the engine doesn't say.
        reason: One sentence.
    """

    layer: str
    kernel: str
    kernel_fp32: str
    seconds_fp32: float | None
    seconds_half: float | None
    n_bytes: float | None = None
    flops: float | None = None
    bound: str = ""
    error: float | None = None
    reason: str = ""


def ours(path: Path, x: NDArray[np.float32]) -> list[Row]:
    """The converted network on measured routines."""
    torch = importlib.import_module("torch")
    samples = torch.from_numpy(x)
    network = HalfNetwork.convert(onnx_module(path, samples.shape[1:]), samples)
    network = network.choose_routines(samples, sampling=Sampling(n_samples=10, seconds_at_most=5.0)).network
    errors = {error.layer: error for error in network.layer_errors(samples[:8])}
    timings = network.time_layers(samples, batch_sizes=(1,), mode="network")
    return [
        Row(
            row.layer,
            row.routine_fp16,
            row.routine_fp32,
            row.seconds_fp32,
            row.seconds_fp16,
            row.bytes_fp16,
            row.flops,
            row.bound,
            errors[row.layer].relative_error,
            row.reason,
        )
        for row in timings
    ]


def onnxruntime(path: Path, x: NDArray[np.float32]) -> list[Row]:
    """onnxruntime's CPU provider: the file as it is, and turned into binary16 by its own converter."""
    ort, onnx = _needed("onnxruntime"), _needed("onnx")
    converter = importlib.import_module("onnxruntime.transformers.float16")
    half = converter.convert_float_to_float16(onnx.load(str(path)), keep_io_types=True)
    return _compared(_profiled(ort, str(path), x), _profiled(ort, half.SerializeToString(), x))


def _profiled(ort: Any, model: str | bytes, x: NDArray[np.float32]) -> dict[str, tuple[str, float]]:
    """Kernel and median seconds of every node."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling, options.log_severity_level = True, 3
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0].name
        for _ in range(N_RUNS):
            session.run(None, {given: x[:1]})
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels: dict[str, str] = {}
    seconds: dict[str, list[float]] = defaultdict(list)
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            node, of = name.removesuffix("_kernel_time"), event["args"]
            types = {kind for entry in of.get("input_type_shape", []) for kind in entry}
            kernels[node] = f"{of['op_name']} ({', '.join(sorted(types))})"
            seconds[node].append(event["dur"] * 1e-6)
    return {node: (kernels[node], float(np.median(seconds[node]))) for node in kernels}


def openvino(path: Path, x: NDArray[np.float32]) -> list[Row]:
    """OpenVINO's CPU plugin at float32, and at bfloat16, which is what it runs where binary16 is asked for."""
    ov = _needed("openvino")

    def profile(precision: str) -> dict[str, tuple[str, float]]:
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "PERF_COUNT": True,
        }
        core = ov.Core()
        model = core.read_model(str(path))
        model.reshape([1, *x.shape[1:]])
        request = core.compile_model(model, "CPU", options).create_infer_request()
        seconds: dict[str, list[float]] = defaultdict(list)
        kernels: dict[str, str] = {}
        for _ in range(N_RUNS):
            request.infer([x[:1]])
            for entry in request.profiling_info:
                if entry.real_time.total_seconds() > 0:
                    kernels[entry.node_name] = f"{entry.node_type} ({entry.exec_type})"
                    seconds[entry.node_name].append(entry.real_time.total_seconds())
        return {node: (kernels[node], float(np.median(seconds[node]))) for node in kernels}

    return _compared(profile("f32"), profile("bf16"))


ENGINES: Mapping[str, Callable[[Path, NDArray[np.float32]], list[Row]]] = {
    "ours": ours,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}


def _compared(single: Mapping[str, tuple[str, float]], half: Mapping[str, tuple[str, float]]) -> list[Row]:
    """Join the rows of both precisions by the engine's names, in the order of the half-precision run."""
    total = sum(seconds for _, seconds in half.values()) or 1.0
    rows = []
    for name in [*half, *(name for name in single if name not in half)]:
        kernel, seconds = half.get(name, ("", None))
        kernel_fp32, seconds_fp32 = single.get(name, ("", None))
        reason = _reason(kernel, kernel_fp32, seconds, seconds_fp32, total)
        rows.append(Row(name, kernel or kernel_fp32, kernel_fp32, seconds_fp32, seconds, reason=reason))
    return rows


def _reason(
    kernel: str, kernel_fp32: str, seconds: float | None, seconds_fp32: float | None, total: float
) -> str:
    """One sentence: what ran, and what half precision changed about it."""
    moves = kernel.startswith(MOVING) or " reorder" in kernel.lower()
    if seconds is None:
        return "Ran at float32 only: in half precision it was fused into another layer, or replaced."
    if seconds_fp32 is None:
        what = "Only moves numbers between types or layouts" if moves else "Has no counterpart at float32"
        return f"{what}; it takes {seconds / total:.0%} of the half-precision run."
    if moves:
        return f"Only moves numbers between types or layouts, in {seconds / total:.0%} of the half-precision run."
    ratio = seconds_fp32 / seconds if seconds else 1.0
    verdict = "is faster" if ratio > 1.05 else "is slower" if ratio < 0.95 else "gains nothing"
    ran = (
        "the same kernel ran on both sides"
        if kernel == kernel_fp32
        else f"{kernel} ran instead of {kernel_fp32}"
    )
    return f"Half precision {verdict}, {ratio:.2f}x: {ran}."


def _needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(
            f"explaining this engine needs the package {name}; pip install '.[bench]'"
        ) from None
