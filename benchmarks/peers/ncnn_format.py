"""Planned layers in the format of ncnn: a text of layers and a file of weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.precision.plan import INPUT, Layer

NCNN_KINDS = {
    "conv2d",
    "linear",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "add",
}  # of layers that are written


def write_ncnn(
    layers: Sequence[Layer], tensors: Mapping[str, Tensor], parameters: Path, weights: Path
) -> str:
    """Write ncnn's text of layers and its file of weights; return the output's name."""
    lines: list[tuple[str, str, list[str], list[str], str]] = [("Input", "input", [], ["input"], "")]
    blobs = {INPUT: "input"}
    content = []
    for layer in layers:
        given, g = blobs[layer.source], layer.geometry
        fused = layer.relu and layer.addend is None and layer.has_weights
        result = layer.name
        if layer.has_weights:
            weight, bias = (tensors[f"{layer.name}.{part}"].float() for part in ("weight", "bias"))
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
            # ncnn's global pooling gives a vector, as the next layer needs it.
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
    """Add the layers that ncnn needs where a result is read more than once."""
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
