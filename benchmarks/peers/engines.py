"""The engines that people run networks with on a CPU: onnxruntime, OpenVINO, ncnn and torch, given the same layers.

Every engine gets the folded, fused float32 network, one thread, and buffers of its own that it reuses. `check` compares
what it computes with float64, `precision` is what it says it ran, as far as it says anything.
"""

import copy
import functools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.precision.plan import INPUT, Layer
from pipeline.precision.reference import apply, reference

N_BYTES_PROTOBUF = 2 << 30  # what one ONNX file can hold


@dataclass(frozen=True)
class Engine:
    """A network that is ready to run.

    Attributes:
        name: Engine and precision that was asked for.
        precision: The precision that the engine reports to have run; empty if it reports none.
        run: Computes the network for the input that it was built with.
        result: The output of one run, in torch's order.
    """

    name: str
    precision: str
    run: Callable[[], object]
    result: Callable[[], Tensor]


@dataclass(frozen=True)
class Problem:
    """A planned network, its float32 parameters, and the batch to run."""

    layers: tuple[Layer, ...]
    parameters: Mapping[str, Tensor]
    x: Tensor

    @functools.cached_property
    def exact(self) -> Tensor:
        return reference(self.layers, self.parameters, self.x)[-1]

    def error(self, result: Tensor) -> float:
        """|result - exact| / |exact|, against float64."""
        return float((result.double().reshape(self.exact.shape) - self.exact).norm() / self.exact.norm())

    @functools.cached_property
    def onnx(self) -> bytes:
        return onnx_model(self.layers, self.parameters, tuple(self.x.shape)).SerializeToString()


def check(problem: Problem, engine: Engine, at_most: float) -> Engine:
    """Refuse an engine whose result is further from float64 than its precision explains."""
    error = problem.error(engine.result())
    if not error <= at_most:
        raise AssertionError(f"{engine.name} is off by {error:.1e} of float64, wanted {at_most:.0e} at most")
    return engine


def float32_engines(problem: Problem, *, torch_only: bool = False) -> list[Engine]:
    """Every engine at float32 that can run the network; one that cannot is left out."""
    builders = (torch_eager,) if torch_only else (torch_eager, onnxruntime, openvino, ncnn)
    built = (builder(problem) for builder in builders)
    return [check(problem, engine, 1e-4) for engine in built if engine is not None]


def onnx_model(layers: Sequence[Layer], parameters: Mapping[str, Tensor], shape: tuple[int, ...]) -> Any:
    """Write planned layers as an ONNX model, one operator per layer, sum or rectifier."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights = [], []
    names = {INPUT: "input"}

    def constant(name: str, value: Tensor) -> str:
        weights.append(numpy_helper.from_array(value.detach().float().contiguous().numpy(), name))
        return name

    for layer in layers:
        given, result = names[layer.source], layer.name
        steps = (layer.addend is not None and layer.kind != "add") + layer.relu
        names[layer.name] = result
        targets = [f"{result}/{i}" for i in range(steps)] + [result]
        affine = [constant(f"{layer.name}.{part}", parameters[f"{layer.name}.{part}"]) for part in ("weight", "bias")] \
            if layer.has_weights else []  # fmt: skip
        first = targets.pop(0)
        windows = _windows(layer)
        if layer.kind == "conv2d":
            assert layer.geometry is not None
            windows |= {"dilations": list(layer.geometry.dilation), "group": layer.geometry.groups}
            nodes.append(helper.make_node("Conv", [given, *affine], [first], **windows))
        elif layer.kind == "linear":
            if len(layer.input_shape) > 1:
                nodes.append(helper.make_node("Flatten", [given], [f"{result}/flat"], axis=1))
                given = f"{result}/flat"
            nodes.append(helper.make_node("Gemm", [given, *affine], [first], transB=1))
        elif layer.kind == "add":
            assert layer.addend is not None
            nodes.append(helper.make_node("Add", [given, names[layer.addend]], [first]))
        elif layer.kind == "adaptive_avg_pool2d":
            if layer.output_shape[1:] != (1, 1):
                raise ValueError(f"{layer.name}: ONNX has adaptive pooling to one pixel only")
            nodes.append(helper.make_node("GlobalAveragePool", [given], [first]))
        else:
            operator = "MaxPool" if layer.kind == "max_pool2d" else "AveragePool"
            nodes.append(helper.make_node(operator, [given], [first], **windows))
        if layer.addend is not None and layer.kind != "add":
            nodes.append(helper.make_node("Add", [first, names[layer.addend]], [first := targets.pop(0)]))
        if layer.relu:
            nodes.append(helper.make_node("Relu", [first], [targets.pop(0)]))
    output = (shape[0], *layers[-1].output_shape)
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(names[layers[-1].name], TensorProto.FLOAT, output)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _windows(layer: Layer) -> dict[str, Any]:
    if layer.geometry is None:
        return {}
    top, left = layer.geometry.padding
    return {
        "kernel_shape": list(layer.geometry.kernel),
        "strides": list(layer.geometry.stride),
        "pads": [top, left, top, left],
    }


def onnxruntime(problem: Problem) -> Engine | None:
    """onnxruntime's CPU provider with bound buffers."""
    try:
        import onnxruntime as ort
    except ImportError:
        return None
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
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

    types = {given.type, wanted.type}
    return Engine("onnxruntime fp32", "fp32" if types == {"tensor(float)"} else str(types), run, result)


def openvino(problem: Problem, precision: str = "f32", name: str = "openvino fp32") -> Engine | None:
    """OpenVINO's CPU plugin, latency mode, with bound buffers; channels last where that is faster for it."""
    try:
        import openvino as ov
    except ImportError:
        return None
    properties = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": 1,
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
        request.set_input_tensor(ov.Tensor(np.ascontiguousarray(x.numpy())))

        def result(request: Any = request, last: bool = last) -> Tensor:
            request.infer()
            found = torch.from_numpy(request.get_output_tensor().data.copy())
            return found.permute(0, 3, 1, 2) if last else found

        engines.append(Engine(name, _openvino_precision(compiled), request.infer, result))
    return min(engines, key=lambda engine: _least(engine.run))


def _openvino_precision(compiled: Any) -> str:
    """The precisions of the convolutions and products that were compiled."""
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
    """ncnn with its packed and Winograd routines; one image at a time, so that a batch is a loop over it."""
    try:
        import ncnn as engine
    except ImportError:
        return None
    if len(problem.x) != 1:
        return None
    net = engine.Net()
    for option in ("fp16_storage", "fp16_packed", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    net.opt.num_threads = 1
    net.opt.lightmode = True
    with tempfile.TemporaryDirectory() as folder:
        parameters, weights = Path(folder, "net.param"), Path(folder, "net.bin")
        last = _write_ncnn(problem, parameters, weights)
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


def _write_ncnn(problem: Problem, parameters: Path, weights: Path) -> str:
    """Write ncnn's text of layers and its file of weights; return the output's name."""
    lines: list[tuple[str, str, list[str], list[str], str]] = [("Input", "input", [], ["input"], "")]
    blobs = {INPUT: "input"}
    content = []
    for layer in problem.layers:
        given, g = blobs[layer.source], layer.geometry
        fused = layer.relu and layer.addend is None and layer.has_weights
        result = layer.name
        if layer.has_weights:
            weight, bias = (problem.parameters[f"{layer.name}.{part}"].float() for part in ("weight", "bias"))
            content += [np.zeros(1, np.uint32).tobytes(), weight.contiguous().numpy().tobytes()]
            content.append(bias.numpy().tobytes())
            outputs = f"0={layer.output_shape[0]}"
            activation = " 9=1" if fused else ""
            if layer.kind == "linear":
                lines.append(
                    (
                        "InnerProduct",
                        result,
                        [given],
                        [result],
                        f"{outputs} 1=1 2={weight.numel()}{activation}",
                    )
                )
            else:
                assert g is not None
                kind = "Convolution" if g.groups == 1 else "ConvolutionDepthWise"
                groups = f" 7={g.groups}" if g.groups > 1 else ""
                lines.append((kind, result, [given], [result],
                              f"{outputs} 1={g.kernel[1]} 11={g.kernel[0]} 2={g.dilation[1]} 12={g.dilation[0]} "
                              f"3={g.stride[1]} 13={g.stride[0]} 4={g.padding[1]} 14={g.padding[0]} 5=1 "
                              f"6={weight.numel()}{groups}{activation}"))  # fmt: skip
        elif layer.kind == "adaptive_avg_pool2d":
            # ncnn's global pooling gives a vector, as what follows wants it.
            lines.append(("Pooling", result, [given], [result], "0=1 4=1"))
        elif layer.kind != "add":
            assert g is not None
            kind = "0" if layer.kind == "max_pool2d" else "1"
            lines.append(("Pooling", result, [given], [result],
                          f"0={kind} 1={g.kernel[1]} 11={g.kernel[0]} 2={g.stride[1]} 12={g.stride[0]} "
                          f"3={g.padding[1]} 13={g.padding[0]} 5=1"))  # fmt: skip
        blob = given if layer.kind == "add" else result
        if layer.addend is not None:
            lines.append(("BinaryOp", f"{result}/sum", [blob, blobs[layer.addend]], [f"{result}/sum"], "0=0"))
            blob = f"{result}/sum"
        if layer.relu and not fused:
            lines.append(("ReLU", f"{result}/relu", [blob], [f"{result}/relu"], ""))
            blob = f"{result}/relu"
        blobs[layer.name] = blob
    lines = _with_splits(lines)
    n_blobs = sum(len(outputs) for *_, outputs, _ in lines)
    text = [f"{kind} {name} {len(given)} {len(result)} {' '.join([*given, *result])} {options}".rstrip()
            for kind, name, given, result, options in lines]  # fmt: skip
    parameters.write_text("\n".join(["7767517", f"{len(lines)} {n_blobs}", *text, ""]))
    weights.write_bytes(b"".join(content))
    readers = {name for _, _, given, _, _ in lines for name in given}
    return next(name for name in blobs.values() if name not in readers)


def _with_splits(lines: list[tuple[str, str, list[str], list[str], str]]) -> list[Any]:
    """ncnn wants a layer of its own where a result is read more than once."""
    n_readers: dict[str, int] = {}
    for _, _, given, _, _ in lines:
        for name in given:
            n_readers[name] = n_readers.get(name, 0) + 1
    result, used = [], dict.fromkeys(n_readers, 0)
    for kind, name, given, outputs, options in lines:
        renamed = []
        for blob in given:
            renamed.append(f"{blob}/{used[blob]}" if n_readers[blob] > 1 else blob)
            used[blob] += 1
        result.append((kind, name, renamed, outputs, options))
        (output,) = outputs
        if n_readers.get(output, 0) > 1:
            copies = [f"{output}/{i}" for i in range(n_readers[output])]
            result.append(("Split", f"{output}/split", [output], copies, ""))
    return result


def torch_eager(problem: Problem, dtype: torch.dtype = torch.float32, name: str = "torch fp32") -> Engine:
    """torch's eager mode in the faster of its memory formats."""
    engines = []
    formats = (
        (torch.contiguous_format, torch.channels_last) if problem.x.ndim == 4 else (torch.contiguous_format,)
    )
    for memory_format in formats:
        parameters = {
            key: value.to(dtype).contiguous(memory_format=memory_format)
            if value.ndim == 4
            else value.to(dtype)
            for key, value in problem.parameters.items()
        }
        x = problem.x.to(dtype).contiguous(memory_format=memory_format)

        def run(parameters: Any = parameters, x: Tensor = x) -> Tensor:
            with torch.inference_mode():
                values = {INPUT: x}
                for layer in problem.layers:
                    addend = None if layer.addend is None else values[layer.addend]
                    values[layer.name] = apply(layer, parameters, values[layer.source], addend)
                return values[problem.layers[-1].name]

        engines.append(Engine(name, str(dtype).removeprefix("torch."), run, lambda run=run: run().float()))
    return min(engines, key=lambda engine: _least(engine.run))


def torch_bfloat16(problem: Problem) -> Engine:
    """torch's eager mode at bfloat16, which oneDNN has dot products for."""
    return torch_eager(problem, torch.bfloat16, "torch bf16")


def openvino_bfloat16(problem: Problem) -> Engine | None:
    """OpenVINO with bfloat16 as its inference precision."""
    return openvino(problem, "bf16", "openvino bf16")


def copies(problem: Problem, n: int) -> list[Problem]:
    """So many problems with weights and inputs in memory of their own."""
    return [
        Problem(problem.layers, copy.deepcopy(dict(problem.parameters)), problem.x.clone()) for _ in range(n)
    ]


def _least(run: Callable[[], object], n: int = 5) -> float:
    run()
    seconds = []
    for _ in range(n):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
