"""The study of a trained network in an ONNX file."""

from collections import Counter
from pathlib import Path

import numpy as np

from pipeline.errors import ConfigError
from pipeline.operations.studies import CONFIG
from pipeline.operations.templates import filled
from pipeline.operations.text import size

SAMPLES = 32
LARGE = 3 * 64 * 64  # numbers in a sample; with larger samples, sixty timings of a batch of 64 take minutes


def study_of_network(name: str, path: Path) -> str:
    """Look at a network, write noise in the shape of its inputs beside the study, and write a study of both."""
    import onnx

    from pipeline.data.samples import noise  # imports torch

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker raise a dozen kinds
        raise ConfigError(
            f"{path}: no ONNX network ({' '.join(str(error).split())[:200]}); export it again"
        ) from None
    weights = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in weights]
    if len(inputs) != 1:
        raise ConfigError(f"{path}: wanted a network of one input, found {len(inputs)}; export it with one")
    sizes = [axis.dim_value for axis in inputs[0].type.tensor_type.shape.dim]
    if len(sizes) < 2 or not all(size > 0 for size in sizes[1:]):
        raise ConfigError(
            f"{path}: its input {inputs[0].name} has the shape {sizes}, where 0 means not fixed; wanted all but the "
            "first to be fixed, so export it with them"
        )
    shape = (SAMPLES, *sizes[1:])
    samples = CONFIG / f"{name}.inputs.npy"
    if samples.exists():
        raise ConfigError(f"{samples}: is there already; choose another name, or remove it")
    np.save(samples, noise(shape))
    operators = Counter(node.op_type for node in model.graph.node)
    return filled(
        "study_of_network.yaml.jinja",
        name=name,
        key=name if name[0].isalpha() and len(name) > 3 else f"network_{name}",
        path=str(path),
        n_nodes=len(model.graph.node),
        operators=", ".join(f"{count} {kind}" for kind, count in operators.most_common()),
        n_parameters=sum(weights.values()),
        n_bytes=size(path.stat().st_size),
        input=inputs[0].name,
        shape=tuple(sizes[1:]),
        samples=str(samples),
        batch=64 if np.prod(sizes[1:]) <= LARGE else 8,
    )
