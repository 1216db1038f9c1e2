"""What engines really ran for an ONNX network: their own profiles, brought into rows of one form.

The bytes and operations of a layer follow from the shapes and types in the engine's own profile.
"""

import functools
import importlib
import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.precision import HalfNetwork, Roofs, Sampling, measure_roofs, onnx_module
from pipeline.precision.error import relative_error
from pipeline.precision.roofline import bound
from pipeline.precision.work import Work

Shape = Sequence[int]

N_RUNS = 20
N_JUDGED = 8  # samples whose answers are compared with those of float64
MOVING = ("Cast", "Reorder", "Convert", "Transpose", "ReorderInput", "ReorderOutput", "copy by place")
CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv", "Convolution", "GroupConvolution")
TRANSPOSED = ("ConvTranspose", "Deconvolution")
PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "FullyConnected")


@dataclass(frozen=True)
class Ran:
    """One layer of one run, as the engine describes it: the kernel that ran, and its median wall time.

    Weights are the constants that the layer reads, activations all else that it reads and writes; None where the engine
    doesn't tell. `in_pairs` says that bfloat16 numbers are multiplied in pairs.
    """

    kernel: str
    seconds: float
    weight_bytes: float | None = None
    activation_bytes: float | None = None
    flops: float | None = None
    in_pairs: bool = False

    @property
    def n_bytes(self) -> float | None:
        """All bytes that the layer moves, counting each number once."""
        if self.weight_bytes is None or self.activation_bytes is None:
            return None
        return self.weight_bytes + self.activation_bytes


@dataclass(frozen=True)
class Row:
    """One layer as an engine ran it; fields are None or empty for what the engine doesn't tell or didn't run.

    `kernel` and `n_bytes`, a lower bound, belong to half precision, or to float32 where the layer ran only there. The
    error is relative to float64, and the reason is one sentence.
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


@dataclass(frozen=True)
class Explained:
    """The layers of a network on one engine, and its answers' error relative to float64, where that has answers."""

    rows: Sequence[Row]
    error: float | None = None


def ours(path: Path, x: NDArray[np.float32]) -> Explained:
    """Run the converted network on measured routines."""
    samples = torch.from_numpy(x)
    network = HalfNetwork.convert(onnx_module(path, samples.shape[1:]), samples)
    network = network.choose_routines(samples, sampling=Sampling(n_samples=10, seconds_at_most=5.0)).network
    errors = {error.layer: error for error in network.layer_errors(samples[:8])}
    timings = network.time_layers(samples, batch_sizes=(1,), mode="network")
    rows = [
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
    return Explained(rows, _answers_error(path, x, [network(samples[:N_JUDGED]).numpy()]))


def _answers_error(
    path: Path, x: NDArray[np.float32], answers: Sequence[NDArray[np.float32]]
) -> float | None:
    """Return the error of the answers for the first samples; None if the network cannot be computed here."""
    found = torch.from_numpy(np.concatenate(answers))
    try:
        module = onnx_module(path, x.shape[1:]).double()
    except ConfigError:
        return None
    with torch.inference_mode():
        exact = torch.cat([module(torch.from_numpy(part[None]).double()) for part in x[: len(found)]])
    return relative_error(found.reshape(exact.shape), exact)


_roofs = functools.cache(measure_roofs)


def onnxruntime(path: Path, x: NDArray[np.float32]) -> Explained:
    """Run onnxruntime's CPU provider on the file as it is, and on the file as its own converter makes it binary16."""
    ort, onnx = _needed("onnxruntime"), _needed("onnx")
    converter = importlib.import_module("onnxruntime.transformers.float16")
    half = converter.convert_float_to_float16(onnx.load(str(path)), keep_io_types=True)
    single, _ = _profiled(ort, str(path), x)
    layers, answers = _profiled(ort, half.SerializeToString(), x)
    return Explained(_compared(single, layers, _roofs()), _answers_error(path, x, answers))


def _profiled(
    ort: Any, model: str | bytes, x: NDArray[np.float32]
) -> tuple[dict[str, Ran], list[NDArray[np.float32]]]:
    """Return every node as it ran, and the answers for some samples."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling, options.log_severity_level = True, 3
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0].name
        for _ in range(N_RUNS):
            session.run(None, {given: x[:1]})
        answers = [session.run(None, {given: part[None]})[0] for part in x[:N_JUDGED]]
        events = json.loads(Path(session.end_profiling()).read_text())
    told: dict[str, Mapping[str, Any]] = {}
    seconds: dict[str, list[float]] = defaultdict(list)
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            # Nodes between casts that onnxruntime has removed keep their names with this prefix.
            node = name.removesuffix("_kernel_time").removeprefix("InsertedPrecisionFreeCast_")
            told[node] = event["args"]
            seconds[node].append(event["dur"] * 1e-6)
    return {node: _node(of, float(np.median(seconds[node]))) for node, of in told.items()}, answers


def _node(told: Mapping[str, Any], seconds: float) -> Ran:
    """Return a node from its entry in onnxruntime's profile."""
    inputs, outputs = (
        [pair for entry in told.get(f"{side}_type_shape", []) for pair in entry.items()]
        for side in ("input", "output")
    )
    sizes = [told.get(f"{name}_size") for name in ("parameter", "activation", "output")]
    parameters, read, written = (float(size) if size is not None else None for size in sizes)
    return Ran(
        f"{told['op_name']} ({', '.join(sorted({kind for kind, _ in inputs}))})",
        seconds,
        parameters,
        None if read is None or written is None else read + written,
        flops_of(told["op_name"], [shape for _, shape in inputs], outputs[0][1]) if outputs else None,
    )


def openvino(path: Path, x: NDArray[np.float32]) -> Explained:
    """Run OpenVINO's CPU plugin at float32, and at bfloat16, which it uses where binary16 is requested."""
    ov = _needed("openvino")

    def profile(precision: str) -> tuple[dict[str, Ran], list[NDArray[np.float32]]]:
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "PERF_COUNT": True,
        }
        core = ov.Core()
        model = core.read_model(str(path))
        model.reshape([1, *x.shape[1:]])
        compiled = core.compile_model(model, "CPU", options)
        request = compiled.create_infer_request()
        seconds: dict[str, list[float]] = defaultdict(list)
        kernels: dict[str, str] = {}
        for _ in range(N_RUNS):
            request.infer([x[:1]])
            for entry in request.profiling_info:
                if entry.real_time.total_seconds() > 0:
                    kernels[entry.node_name] = f"{entry.node_type} ({entry.exec_type})"
                    seconds[entry.node_name].append(entry.real_time.total_seconds())
        answers = [next(iter(request.infer([part[None]]).values())).copy() for part in x[:N_JUDGED]]
        operations = {op.get_friendly_name(): op for op in compiled.get_runtime_model().get_ops()}
        return {
            node: _operation(operations.get(node), kernels[node], float(np.median(seconds[node])))
            for node in kernels
        }, answers

    single, _ = profile("f32")
    layers, answers = profile("bf16")
    return Explained(_compared(single, layers, _roofs()), _answers_error(path, x, answers))


def _operation(operation: Any, kernel: str, seconds: float) -> Ran:
    """Return a layer from its entry in OpenVINO's runtime model, if there is one of this name."""
    if operation is None:
        return Ran(kernel, seconds)
    in_pairs = _told(operation, "runtimePrecision") == "bf16"
    weights = activations = 0.0
    for value in operation.inputs():
        constant = _told(value.get_source_output().get_node(), "layerType") == "Const"
        # The runtime model shows constants as in the file, although they are packed for the kernel.
        size = (
            min(value.get_element_type().size, 2) if constant and in_pairs else value.get_element_type().size
        )
        n_bytes = float(np.prod(value.get_shape())) * size
        weights, activations = weights + constant * n_bytes, activations + (not constant) * n_bytes
    results = [list(value.get_shape()) for value in operation.outputs()]
    activations += sum(
        float(np.prod(shape)) * value.get_element_type().size
        for shape, value in zip(results, operation.outputs(), strict=True)
    )
    shapes = [list(value.get_shape()) for value in operation.inputs()]
    flops = flops_of(_told(operation, "layerType"), shapes, results[0]) if results else None
    return Ran(kernel, seconds, weights, activations, flops, in_pairs)


def _told(operation: Any, key: str) -> str:
    """Return an entry of OpenVINO's information on an operation; empty if there is none."""
    information = operation.get_rt_info()
    return str(information[key].astype(str)) if key in information else ""


ENGINES = {"ours": ours, "onnxruntime": onnxruntime, "openvino": openvino}


def flops_of(kind: str, inputs: Sequence[Shape], output: Shape) -> float | None:
    """Count the FLOPs of a convolution's or a matrix product's definition, two for each multiply-add; None for others.

    Inputs are shapes: images or a matrix first, weights or another matrix second. In an output of images, the second
    dimension counts the output channels.
    """
    if len(inputs) < 2:
        return None
    first, second = inputs[:2]
    if kind in CONVOLUTIONS and len(output) > 2:
        return 2.0 * math.prod(output) * math.prod(second) / output[1]
    if kind in TRANSPOSED and len(first) > 2:
        return 2.0 * math.prod(first) * math.prod(second) / first[1]
    if kind in PRODUCTS and first:
        # Either matrix may be transposed: the inner dimension is one that both have.
        inner = first[-1] if first[-1] in second[-2:] else first[-2]
        return 2.0 * math.prod(output) * inner
    return None


def bounds(layers: Mapping[str, Ran], roofs: Roofs) -> dict[str, str]:
    """Name the limit of each layer within the network, where its bytes are known: compute, or a level of memory."""
    known = {
        name: Work(
            flops=ran.flops or 0.0,
            weight_bytes=ran.weight_bytes,
            activation_bytes=ran.activation_bytes,
            conversions=0.0,
            routine="products bf16" if ran.in_pairs else "",
        )
        for name, ran in layers.items()
        if ran.weight_bytes is not None and ran.activation_bytes is not None
    }
    resident = sum(work.weight_bytes for work in known.values()) + max(
        (work.activation_bytes for work in known.values()), default=0.0
    )
    return {name: bound(work, roofs, mode="network", resident=resident).term for name, work in known.items()}


def _compared(single: Mapping[str, Ran], half: Mapping[str, Ran], roofs: Roofs) -> list[Row]:
    """Join the rows of both precisions by the engine's names, in the order of the half-precision run."""
    total = sum(ran.seconds for ran in half.values()) or 1.0
    limits = bounds(single, roofs) | bounds(half, roofs)
    return [
        _row(name, single.get(name), half.get(name), limits.get(name, ""), total)
        for name in {**half, **single}
    ]


def _row(name: str, single: Ran | None, half: Ran | None, limit: str, total: float) -> Row:
    """Make a row with one sentence on what ran and what half precision changed."""
    known = half or single
    assert known is not None
    moves = known.kernel.startswith(MOVING) or " reorder" in known.kernel.lower()
    if half is None:
        reason = "Ran at float32 only: in half precision it was fused into another layer, or replaced."
    elif single is None or moves:
        what = "Only moves numbers between types or layouts" if moves else "Has no counterpart at float32"
        takes = "; it takes" if single is None else ", in"
        reason = f"{what}{takes} {half.seconds / total:.0%} of the half-precision run."
    else:
        ratio = single.seconds / half.seconds if half.seconds else 1.0
        verdict = "is faster" if ratio > 1.05 else "is slower" if ratio < 0.95 else "gains nothing"
        same = half.kernel == single.kernel
        ran = "the same kernel ran on both sides" if same else f"{half.kernel} ran instead of {single.kernel}"
        reason = f"Half precision {verdict}, {ratio:.2f}x: {ran}."
    return Row(
        name, known.kernel, single.kernel if single else "",
        single.seconds if single else None, half.seconds if half else None,
        n_bytes=known.n_bytes, flops=known.flops, bound=limit, reason=reason,
    )  # fmt: skip


def _needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(
            f"explaining this engine needs the package {name}; pip install '.[bench]'"
        ) from None
