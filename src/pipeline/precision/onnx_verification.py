"""Verify that a network read from an ONNX file computes what an independent evaluator computes."""

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import ConfigError
from pipeline.precision.onnx_network import OnnxNetwork

INTEGERS = (
    9,
    2**15,
)  # magnitudes of whole inputs: small ones, whose quotients are rounded, and ones that overflow
N_INPUTS = len(INTEGERS)  # random inputs, each a batch of its own
# Both sides sum binary32 products in different orders; hundreds of layers amplify the difference to some 1e-5.
LARGEST_DIFFERENCE = 1e-3
LARGEST_DIFFERENCE_HALF = 3e-2  # evaluators compute in 16 bits what a file has in 16 bits
# Limits for one channel of the result: others do not hide its error, but their rounding may add up in it.
CHANNEL_DIFFERENCE, CHANNEL_ROUNDING = 3e-2, 1e-5
LARGEST_INPUT = 2**28  # numbers
SIZES = (64, 224, 32, 128)  # tried where the file leaves the size of its images open
REFERENCE = "ONNX's reference evaluator"


def verify(
    path: Path, onnx: Any, model: Any, network: OnnxNetwork, shape: Sequence[int] | None
) -> tuple[int, ...]:
    """Compare a network with the results of an evaluator that is independent of this package.

    Args:
        path: The file, for error texts.
        onnx: The package.
        model: What was read from the file.
        network: The network made of it; `alone` is set if the file takes a batch of one.
        shape: Shape of a sample; None for the file's own, or for some sizes that it takes.

    Returns:
        The shape for which it was verified.

    Raises:
        ConfigError: If no evaluator runs it, or the two differ.
    """
    evaluator, name = _evaluator(path, onnx, model)
    given = next(entry for entry in model.graph.input if entry.name == network.given)
    dtype = _type_of(path, onnx, given)
    generator = np.random.default_rng(0)
    failure: Exception | None = None
    for size in _shapes(path, given, shape):
        arrays = [_random(path, generator, size, dtype, largest) for largest in INTEGERS]
        results = _results(path, network, arrays)
        try:
            with np.errstate(all="ignore"):
                wanted = [np.asarray(evaluator(network.given, array), dtype=np.float64) for array in arrays]
        except Exception as found:  # of many kinds: onnxruntime's, numpy's, and the reference's own
            failure = found
            continue
        break
    else:
        raise ConfigError(
            f"{path}: {name} cannot run it ({one_line(failure)}), so what is read here could not be verified; look at "
            "the file with onnx.checker"
        )
    if isinstance(results, Exception):
        raise ConfigError(
            f"{path}: cannot be read here ({one_line(results)}), though {name} runs it; please report the file"
        ) from results
    limit = LARGEST_DIFFERENCE_HALF if _has_halves(onnx, model) else LARGEST_DIFFERENCE
    for result, exact in zip(results, wanted, strict=True):
        difference = _difference(result, exact, limit)
        if not difference <= limit:
            judge = "; the evaluator may be wrong, too: install onnxruntime, which then judges" * (
                name == REFERENCE
            )
            raise ConfigError(
                f"{path}: for a random input, the result has norm {np.linalg.norm(result):.6g} and shape "
                f"{result.shape} here, and {np.linalg.norm(exact):.6g} and {exact.shape} by {name}; they differ by "
                f"{difference:.2g} of the norm by {name}, or of a channel's. The file was not read as it is meant; "
                f"please report it{judge}"
            )
    if arrays[0].shape[0] == 1:  # exporters write this unless told that a batch may have any size
        together = _results(path, network, [np.concatenate(arrays)])
        network.alone = isinstance(together, Exception) or not np.allclose(
            together[0], np.concatenate(results), rtol=limit, atol=limit, equal_nan=True
        )
    return tuple(arrays[0].shape[1:])


def _random(
    path: Path, generator: np.random.Generator, size: tuple[int, ...], dtype: np.dtype[Any], largest: int
) -> np.ndarray[Any, Any]:
    """Return a random input: normal numbers, or whole ones up to a magnitude."""
    if math.prod(size) > LARGEST_INPUT:
        raise ConfigError(
            f"{path}: takes inputs of shape {size}, more than {LARGEST_INPUT} numbers; wanted smaller ones, so export "
            "the network with them"
        )
    if dtype.kind == "b":
        return generator.integers(0, 2, size).astype(dtype)
    if dtype.kind not in "iu":
        return generator.standard_normal(size, dtype=np.float32).astype(dtype)
    least, most = max(np.iinfo(dtype).min, -largest), min(np.iinfo(dtype).max, largest)
    return generator.integers(least, most, size, endpoint=True).astype(dtype)


def _difference(result: np.ndarray[Any, Any], exact: np.ndarray[Any, Any], limit: float) -> float:
    """|result - exact| / |exact|, of all or of a channel that is far off; infinite for other shapes or NaNs."""
    finite = np.isfinite(exact)
    if result.shape != exact.shape or not np.array_equal(result[~finite], exact[~finite], equal_nan=True):
        return math.inf
    off, exact = np.where(finite, result - exact, 0.0), np.where(finite, exact, 0.0)
    norm = float(np.linalg.norm(exact)) or 1.0
    difference = float(np.linalg.norm(off)) / norm
    others = tuple(axis for axis in range(exact.ndim) if axis != 1)
    of_channels, norms = (np.sqrt(np.sum(part**2, axis=others)) for part in (off, exact))
    far = of_channels > max(CHANNEL_DIFFERENCE, limit) * norms + CHANNEL_ROUNDING * norm
    relative = np.where(far, of_channels / np.where(norms > 0, norms, norm), 0.0)
    largest: float = relative.max(initial=0.0)
    return max(difference, largest)


def _has_halves(onnx: Any, model: Any) -> bool:
    """Whether anything in a file is of a type with 16 bits, in which evaluators then compute."""
    half = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    types = {entry.data_type for entry in model.graph.initializer}
    types |= {entry.type.tensor_type.elem_type for entry in model.graph.input}
    for node in model.graph.node:
        types |= {
            kind for entry in node.attribute for kind in (entry.t.data_type, entry.i * (entry.name == "to"))
        }
    return bool(types & half)


def _type_of(path: Path, onnx: Any, given: Any) -> np.dtype[Any]:
    """The type of the input's numbers; raises ConfigError if it is none, or if the input's dimensions are not told."""
    kind = given.type.tensor_type.elem_type
    known = {number: name for name, number in onnx.TensorProto.DataType.items()}
    if kind not in known or known[kind] in ("UNDEFINED", "STRING"):
        raise ConfigError(
            f"{path}: its input {given.name!r} is of type {known.get(kind, kind)}; wanted numbers such as FLOAT, so "
            "export the network with such an input"
        )
    if not given.type.tensor_type.shape.dim:
        raise ConfigError(
            f"{path}: does not say how many dimensions its input {given.name!r} has; export the network with the "
            "input's shape"
        )
    found: np.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(kind)
    return found


def _results(path: Path, network: OnnxNetwork, arrays: Sequence[Any]) -> list[Any] | Exception:
    """What the module gives, or why it doesn't run on such arrays; refusals of a node are raised."""
    try:
        with torch.no_grad():
            tensors = [torch.from_numpy(array.astype(np.float32)) for array in arrays]
            return [network(tensor).double().numpy() for tensor in tensors]
    except ConfigError as refused:
        raise ConfigError(f"{path}: {refused}") from None
    except Exception as found:  # whatever errors of Python and torch malformed attributes cause
        return found


def _evaluator(path: Path, onnx: Any, model: Any) -> tuple[Any, str]:
    """What runs the file: a function of an input's name and array, and its name."""
    try:
        ort: Any = importlib.import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:  # not installed, or one that takes fewer files: two nodes of one name, for instance
        reference: Any = importlib.import_module("onnx.reference")
        try:
            evaluator = reference.ReferenceEvaluator(model)
        except Exception as failure:  # onnx's own kinds, and Python's
            raise ConfigError(
                f"{path}: {REFERENCE} cannot read it ({one_line(failure)}), so it could not be verified; look at the "
                "file with onnx.checker"
            ) from failure
        return lambda key, x: evaluator.run(None, {key: x})[0], REFERENCE
    return lambda key, x: session.run(None, {key: x})[0], "onnxruntime"


def _shapes(path: Path, given: Any, shape: Sequence[int] | None) -> list[tuple[int, ...]]:
    """Shapes to run the input with: the file's own, and where it leaves them open a batch of 2 and some sizes.

    Raises:
        ConfigError: If a sample of another shape is wanted than the file takes.
    """
    # Some exporters write -1 for a length that they leave open.
    dims = [max(dim.dim_value, 0) for dim in given.type.tensor_type.shape.dim]
    if shape is not None:
        if len(dims) != len(shape) + 1 or any(
            dim not in (0, own) for dim, own in zip(dims[1:], shape, strict=True)
        ):
            raise ConfigError(
                f"{path}: takes inputs of shape (n, {', '.join(str(dim or 'any') for dim in dims[1:])}); found "
                f"(n, {', '.join(map(str, shape))})"
            )
        return [(dims[0] or 2, *shape)]
    if all(dims[1:]):
        return [(dims[0] or 2, *dims[1:])]
    images = (
        [(dims[0] or 2, dims[1] or 3, *(dim or size for dim in dims[2:])) for size in SIZES]
        if len(dims) > 1
        else []
    )
    return images or [tuple(dim or 2 for dim in dims)]


def one_line(failure: Exception | None) -> str:
    return " ".join(str(failure).split())[:200]
