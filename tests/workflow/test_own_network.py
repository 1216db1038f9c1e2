"""A network of one's own, from an ONNX file to the page of its layers in two commands."""

import html
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.artifacts.store import Artifact

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]


def write_network(path):
    """Write two convolutions, a pooling and a linear layer, with weights that keep the activations' size."""
    generator = np.random.default_rng(0)

    def weights(name, *shape):
        drawn = generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(drawn.astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="stem"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="body"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "w3"], ["y"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 11, 13))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 7))],
        [weights("w1", 17, 3, 3, 3), weights("w2", 33, 17, 3, 3), weights("w3", 7, 33)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_an_onnx_file_becomes_the_page_of_its_layers(workplace):
    write_network(workplace.folder / "detector.onnx")
    workplace.pipeline("new", "detector", "--from", "detector.onnx")
    workplace.snakemake(study="config/detector.yaml")
    results = workplace.folder / "results/detector"
    timed = Artifact.open(results / "time_layers/detector/manifest.json", "timings")
    rows = timed.json("timings")
    layers = {row["layer"] for row in rows}
    assert len(layers) >= 3
    assert {(row["mode"], row["batch"]) for row in rows} == {("network", 1), ("network", 64)}
    page = html.unescape((results / "report/index.html").read_text(encoding="utf-8"))
    assert [layer for layer in sorted(layers) if layer not in page] == []
    # The page tells the speedup by a bar, and the rest of the sentence beside it.
    whys = {
        re.split(r", [\d.,]+x(?= by | with |:)", row["reason"])[-1]
        for row in rows
        if row["mode"] == "network"
    }
    assert [why for why in sorted(whys) if why not in page] == []
