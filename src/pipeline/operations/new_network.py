"""The study of a trained network in an ONNX file."""

import json
from pathlib import Path

import numpy as np

from pipeline.errors import ConfigError
from pipeline.operations.studies import CONFIG
from pipeline.operations.text import size
from pipeline.runtime.words import counted

SAMPLES = 32
LARGE = 3 * 64 * 64  # numbers of a sample: sixty times of 64 larger ones take minutes


def study_of_network(name: str, path: Path) -> str:
    """Look at a network, write noise in the shape of its inputs beside the study, and a study of both.

    Raises:
        ConfigError: If the file is no network, or does not tell the shape of its input.
    """
    import onnx

    from pipeline.data.samples import noise  # which needs torch

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker have a dozen kinds
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
            f"{path}: its input {inputs[0].name} has the shape {sizes}, 0 where it is not told; wanted all but the "
            "first to be fixed, so export it with them"
        )
    shape = (SAMPLES, *sizes[1:])
    samples = CONFIG / f"{name}.inputs.npy"
    if samples.exists():
        raise ConfigError(f"{samples}: is there already; choose another name, or remove it")
    np.save(samples, noise(shape))
    operators: dict[str, int] = {}
    for node in model.graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    told = ", ".join(
        f"{count} {kind}" for kind, count in sorted(operators.items(), key=lambda item: -item[1])
    )
    return "\n".join(
        [
            f"# {path}: {counted(len(model.graph.node), 'node')} ({told}), {sum(weights.values()):,} parameters, "
            f"{size(path.stat().st_size)}.",
            f"# Its input {inputs[0].name} takes samples of shape {tuple(sizes[1:])}.",
            f"# {samples} holds noise of that shape: times are those of any samples, errors are not. Replace it by",
            "# samples like those to come, and name their classes in labels to see what accuracy half precision costs.",
            "",
            f"study: {name}",
            "precision:",
            "  # Layers are timed on one sample, and on so many at once.",
            f"  batch_sizes: [1, {64 if np.prod(sizes[1:]) <= LARGE else 8}]",
            "  # What ran before a timed layer: the network's other layers. Add warm (the layer itself) and cold (a",
            "  # sweep of the caches) to see what memory costs.",
            "  modes: [network]",
            "  networks:",
            f"    {name if name[0].isalpha() and len(name) > 3 else f'network_{name}'}:",
            f"      path: {json.dumps(str(path))}",
            f"      inputs: {json.dumps(str(samples))}",
            "      labels: null",
            "      # The relative error of its output that half precision may cost.",
            "      budget: {relative_error: 2.0e-2}",
            "",
        ]
    )
