"""The engines that people use to run networks on a CPU: onnxruntime, OpenVINO, ncnn and torch, given the same layers.

Every engine gets the folded, fused float32 network, the problem's threads, and buffers of its own that it reuses.
`check` compares its result with float64; `precision` is the precision that it reports, if it reports any.
"""

import functools
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.ncnn_format import NCNN_KINDS, write_ncnn
from torch import Tensor

from pipeline.precision.error import relative_error
from pipeline.precision.onnx_export import onnx_model
from pipeline.precision.plan import Layer
from pipeline.precision.reference import reference
from pipeline.precision.torch_network import TorchNetwork, formats_of


def _takes_no_other(x: Tensor) -> Tensor:
    raise NotImplementedError("this engine runs the input that it was built with")


@dataclass(frozen=True)
class Engine:
    """A network that is ready to run.

    Attributes:
        name: The engine, and the precision that was requested.
        precision: The precision that the engine reports to have run; empty if it reports none.
        run: Computes the network for the input that it was built with.
        result: The output of one run, in torch's order.
        answer: The output for another input of the same shape, for engines that can take one.
    """

    name: str
    precision: str
    run: Callable[[], object]
    result: Callable[[], Tensor]
    answer: Callable[[Tensor], Tensor] = _takes_no_other


@dataclass(frozen=True)
class Problem:
    """A planned network, its float32 parameters, the batch to run, and the number of threads that an engine may use."""

    layers: tuple[Layer, ...]
    parameters: Mapping[str, Tensor]
    x: Tensor
    n_threads: int = 1

    @functools.cached_property
    def exact(self) -> Tensor:
        return reference(self.layers, self.parameters, self.x)[-1]

    def error(self, result: Tensor) -> float:
        """|result - exact| / |exact|, against float64."""
        return relative_error(result.reshape(self.exact.shape), self.exact)

    @functools.cached_property
    def onnx(self) -> bytes:
        return onnx_model(self.layers, self.parameters, batch=len(self.x)).SerializeToString()  # type: ignore[no-any-return]


def check(problem: Problem, engine: Engine, at_most: float) -> Engine:
    """Refuse an engine whose result differs more from float64 than its precision explains."""
    error = problem.error(engine.result())
    if not error <= at_most:
        raise AssertionError(f"{engine.name} is off by {error:.1e} of float64, wanted {at_most:.0e} at most")
    return engine


def float32_engines(problem: Problem) -> list[Engine]:
    """Return every engine at float32 that can run the network."""
    built = (builder(problem) for builder in (torch_eager, onnxruntime, openvino, ncnn))
    return [check(problem, engine, 1e-4) for engine in built if engine is not None]


def onnxruntime(problem: Problem) -> Engine | None:
    """Build onnxruntime's CPU provider with bound buffers."""
    try:
        import onnxruntime as ort
    except ImportError:
        return None
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = problem.n_threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = ort.InferenceSession(problem.onnx, options, providers=["CPUExecutionProvider"])
    (given,), (wanted,) = session.get_inputs(), session.get_outputs()
    x, y = problem.x.contiguous().numpy(), np.empty(wanted.shape, np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input(given.name, x)
    binding.bind_output(wanted.name, "cpu", 0, np.float32, y.shape, y.ctypes.data)

    def run() -> None:
        session.run_with_iobinding(binding)

    def result() -> Tensor:
        run()
        return torch.from_numpy(y.copy())

    def answer(other: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {given.name: other.numpy()})[0])

    types = {given.type, wanted.type}
    precision = "fp32" if types == {"tensor(float)"} else str(types)
    return Engine("onnxruntime fp32", precision, run, result, answer)


def openvino(problem: Problem, precision: str = "f32", name: str = "openvino fp32") -> Engine | None:
    """Build OpenVINO's CPU plugin in latency mode with bound buffers; channels last where that is faster for it."""
    try:
        import openvino as ov
    except ImportError:
        return None
    properties = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": problem.n_threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    core = ov.Core()
    engines = []
    layouts = ("NCHW", "NHWC") if problem.x.ndim == 4 else ("NC",)
    for layout in layouts:
        model = core.read_model(problem.onnx)
        x, last = problem.x, layout == "NHWC" and len(problem.layers[-1].output_shape) == 3
        if layout == "NHWC":
            x = x.permute(0, 2, 3, 1)
            steps = ov.preprocess.PrePostProcessor(model)
            steps.input().tensor().set_layout(ov.Layout("NHWC"))
            steps.input().model().set_layout(ov.Layout("NCHW"))
            if last:
                steps.output().model().set_layout(ov.Layout("NCHW"))
                steps.output().tensor().set_layout(ov.Layout("NHWC"))
            model = steps.build()
        compiled = core.compile_model(model, "CPU", properties)
        request = compiled.create_infer_request()
        given = np.ascontiguousarray(x.numpy())
        request.set_input_tensor(ov.Tensor(given, shared_memory=True))

        def result(request: Any = request, last: bool = last) -> Tensor:
            request.infer()
            found = torch.from_numpy(request.get_output_tensor().data.copy())
            return found.permute(0, 3, 1, 2) if last else found

        def answer(
            other: Tensor,
            given: Any = given,
            result: Any = result,
            layout: str = layout,
        ) -> Tensor:
            kept = given.copy()
            given[...] = (other.permute(0, 2, 3, 1) if layout == "NHWC" else other).numpy()
            found: Tensor = result()
            given[...] = kept
            return found

        engines.append(Engine(name, _openvino_precision(compiled), request.infer, result, answer))
    return min(engines, key=lambda engine: _least(engine.run))


def _openvino_precision(compiled: Any) -> str:
    """Return the precisions of the compiled convolutions and products."""
    found = set()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = {
            key: str(value.astype(str))
            for key, value in node.get_rt_info().items()
            if hasattr(value, "astype")
        }
        if info.get("layerType") in ("Convolution", "FullyConnected", "MatMul"):
            found.add(info.get("runtimePrecision", "?"))
    return " ".join(sorted(found))


def ncnn(problem: Problem) -> Engine | None:
    """Build ncnn with its packed and Winograd routines; it takes one image at a time, so a batch is a loop."""
    try:
        import ncnn as engine
    except ImportError:
        return None
    if len(problem.x) != 1 or not {layer.kind for layer in problem.layers} <= NCNN_KINDS:
        return None
    net = engine.Net()
    for option in ("fp16_storage", "fp16_packed", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    net.opt.num_threads = problem.n_threads
    net.opt.lightmode = True
    with tempfile.TemporaryDirectory() as folder:
        parameters, weights = Path(folder, "net.param"), Path(folder, "net.bin")
        last = write_ncnn(problem.layers, problem.parameters, parameters, weights)
        if net.load_param(str(parameters)) or net.load_model(str(weights)):
            raise AssertionError("ncnn does not take the network")
    x = engine.Mat(problem.x[0].contiguous().numpy()).clone()

    def run() -> Any:
        extractor = net.create_extractor()
        extractor.input("input", x)
        return extractor.extract(last)[1]

    def result() -> Tensor:
        return torch.from_numpy(np.array(run())).unsqueeze(0)

    return Engine("ncnn fp32", "", run, result)


def torch_eager(problem: Problem, dtype: torch.dtype = torch.float32, name: str = "torch fp32") -> Engine:
    """Build torch's eager mode in the faster of its memory formats."""
    engines = []
    for memory_format in formats_of(problem.x).values():
        network = TorchNetwork(problem.layers, problem.parameters, problem.x, memory_format, dtype)

        def run(network: TorchNetwork = network) -> Tensor:
            with torch.inference_mode():
                return network()

        engines.append(Engine(name, str(dtype).removeprefix("torch."), run, lambda run=run: run().float()))
    return min(engines, key=lambda engine: _least(engine.run))


def torch_bfloat16(problem: Problem) -> Engine:
    """Build torch's eager mode at bfloat16, for which oneDNN has dot products."""
    return torch_eager(problem, torch.bfloat16, "torch bf16")


def openvino_bfloat16(problem: Problem) -> Engine | None:
    """Build OpenVINO with bfloat16 as its inference precision."""
    return openvino(problem, "bf16", "openvino bf16")


def _least(run: Callable[[], object], n: int = 5) -> float:
    run()
    seconds = []
    for _ in range(n):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
