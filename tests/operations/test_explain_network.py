"""The page that explains a network on several engines."""

import errno
import importlib.util
import os
import re
from argparse import Namespace
from html.parser import HTMLParser

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from typical_roofs import take_typical_roofs

from pipeline.__main__ import main
from pipeline.errors import ConfigError
from pipeline.operations import engine_profiles
from pipeline.operations.engine_profiles import Explained, Ran, Row, bounds, flops_of
from pipeline.operations.explain_network import ENGINE_HEADINGS, HEADINGS, page, run, summary
from pipeline.precision.roofline import TYPICAL_ROOFS


@pytest.fixture
def files(tmp_path):
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="a<b>"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["y"], transB=1, name="head"),
    ]
    weights = [
        numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (16, 3, 3, 3)), ("v", (5, 16)))
    ]
    shapes = [("x", ["n", 3, 12, 12]), ("y", ["n", 5])]
    given, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes)
    graph = helper.make_graph(nodes, "network", [given], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "model.onnx"))
    np.save(tmp_path / "x.npy", generator.standard_normal((4, 3, 12, 12)).astype(np.float32))
    return tmp_path


class Cells(HTMLParser):
    """The text of the rows of all tables."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.open = tag in ("td", "th") or (tag == "a" and self.open)

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data


@pytest.mark.parametrize("engine", ["ours", "onnxruntime", "openvino"])
def test_the_page_has_a_row_and_a_sentence_for_every_layer(files, engine, capsys, monkeypatch):
    take_typical_roofs(monkeypatch)
    if engine != "ours" and importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    output = files / "pages" / "page.html"
    arguments = ["explain_network", files / "model.onnx", "--inputs", files / "x.npy", "--engine", engine]
    assert not main([*map(str, arguments), "--output", str(output)])
    engines, of_engine, *rows = Cells(output.read_text()).rows
    assert tuple(engines) == ENGINE_HEADINGS
    assert of_engine[:2] == [engine, str(len(rows) - 1)]
    assert rows[0][:2] == ["layer", "kernel that ran"]
    assert len(rows) > 2
    assert all(len(row) == 10 and row[1] and row[-1].endswith(".") for row in rows[1:])
    assert f"{engine}: {len(rows) - 1} layers" in capsys.readouterr().out
    if engine == "ours":
        assert [row[0] for row in rows[1:]] == ["a<b>", "p", "head"]
        assert all(float(row[8]) < 5e-3 for row in rows[1:])
    assert float(of_engine[6]) < 2e-2
    kernels = ("Conv (", "Convolution", "direct", "product", "Winograd")
    computed = [row for row in rows[1:] if row[1].startswith(kernels)]
    assert {row[6] for row in computed} & {"0.1244"}  # 2 x 16 x 12 x 12 results of 3 x 3 x 3 products
    assert all(row[5] and row[7] for row in computed)


def test_casts_and_what_runs_on_one_side_are_told():
    single = {"conv": Ran("Conv (float)", 4e-3), "relu": Ran("Relu (float)", 1e-3)}
    half = {"cast_0": Ran("Cast (float)", 1e-3), "conv": Ran("Conv (float16)", 3e-3)}
    rows = {row.layer: row for row in engine_profiles._compared(single, half, TYPICAL_ROOFS)}
    assert (
        rows["cast_0"].reason
        == "Only moves numbers between types or layouts; it takes 25% of the half-precision run."
    )
    assert (
        rows["conv"].reason == "Half precision is faster, 1.33x: Conv (float16) ran instead of Conv (float)."
    )
    assert rows["relu"].reason.startswith("Ran at float32 only")
    told = summary(Explained(list(rows.values()), 2e-3))
    assert "5.00 ms at FP32 and 4.00 ms in half precision, 1.25x" in told
    assert told.endswith("take 25% of the time in half precision; its answers are off by 2.0e-03")


def test_names_are_text_and_no_markup():
    text = page("<m>", (3, 4), {"ours": Explained([Row("<script>", "a&b", "", None, 1e-3, reason="So.")])})
    assert "<script>" not in text
    assert Cells(text).rows[-1][:2] == ["<script>", "a&b"]


def test_every_cell_has_its_heading_for_a_phone():
    text = page("m", (3, 4), {"ours": Explained([Row("conv", "direct", "", None, 1e-3, reason="So.")])})
    assert tuple(re.findall(r'<td data-title="([^"]*)"', text)) == (*ENGINE_HEADINGS, *HEADINGS)


def test_engines_stand_beside_each_other_with_what_takes_longest():
    ours = [
        Row("conv", "direct", "", 4e-3, 1e-3, reason="So."),
        Row("c", "Cast", "", 0.0, 3e-3, reason="So."),
    ]
    theirs = [Row("conv", "jit", "", 6e-3, 2e-3, reason="So.")]
    rows = Cells(page("m", (3, 4), {"ours": Explained(ours, 1e-3), "openvino": Explained(theirs)})).rows
    assert rows[1] == ["ours", "2", "4.00", "4.00", "1.00x", "75%", "1.0e-03", "c 75%, conv 25%"]
    assert rows[2] == ["openvino", "1", "6.00", "2.00", "3.00x", "0%", "", "conv 100%"]


def test_inputs_that_are_no_samples_are_refused(files):
    options = Namespace(
        model=files / "model.onnx", inputs=files / "model.onnx", engine="ours", output=files / "p.html"
    )
    with pytest.raises(ConfigError, match=r"model.onnx: not a readable array"):
        run(options)
    arrays = {
        r"none.npy: holds float64 of shape \(0, 3, 12, 12\); wanted at least one sample": np.zeros(
            (0, 3, 12, 12)
        ),
        r"row.npy: holds shape \(3,\); wanted at least one sample": np.zeros(3),
        "complex.npy: holds complex128": np.zeros((2, 3, 12, 12), complex),
        "large.npy: holds NaN or infinity": np.full((2, 3, 12, 12), 1e300),
        r"takes inputs of shape \(n, 3, 12, 12\); found \(n, 3, 9, 9\)": np.ones((2, 3, 9, 9)),
    }
    for words, array in arrays.items():
        path = files / f"{words.split('.', maxsplit=1)[0]}.npy" if ".npy" in words else files / "small.npy"
        np.save(path, array)
        with pytest.raises(ConfigError, match=words):
            run(Namespace(**{**vars(options), "inputs": path}))
    (files / "empty.npy").touch()
    np.savez(files / "several.npz", np.ones(3))
    for name, words in (("empty.npy", "is empty"), ("several.npz", "holds several arrays")):
        with pytest.raises(ConfigError, match=words):
            run(Namespace(**{**vars(options), "inputs": files / name}))


def test_a_page_that_cannot_be_written_is_told_before_anything_runs(files, monkeypatch):
    monkeypatch.setattr(engine_profiles, "ours", None)
    (files / "taken").touch()
    options = {"model": files / "model.onnx", "inputs": files / "x.npy", "engine": "ours"}
    for output, words in (
        (files, "because it is a folder"),
        (files / "taken" / "page.html", "because .*taken: "),
    ):
        with pytest.raises(ConfigError, match=f"cannot write .*{words}"):
            run(Namespace(**options, output=output))


@pytest.mark.parametrize("name", ["model.onnx", "x.npy", "notes.txt"])
def test_a_file_that_is_no_page_is_not_written_over(files, name, capsys):
    (files / "notes.txt").write_text("mine")
    before = (files / name).read_bytes()
    arguments = [
        "explain_network",
        files / "model.onnx",
        "--inputs",
        files / "x.npy",
        "--output",
        files / name,
    ]
    assert main([*map(str, arguments)]) == 2
    assert f"{name}, because there is a file that is no page; give another name" in capsys.readouterr().err
    assert (files / name).read_bytes() == before


@pytest.mark.parametrize("before", [b"", b"<!DOCTYPE HTML><title>an earlier page</title>"])
def test_an_earlier_page_is_replaced_and_what_keeps_a_page_from_being_written_is_one_line(
    files, before, monkeypatch
):
    monkeypatch.setitem(
        engine_profiles.ENGINES, "ours", lambda *_: Explained([Row("a", "b", "", 1e-3, 1e-3)])
    )
    output = files / "p.html"
    output.write_bytes(before)
    options = Namespace(model=files / "model.onnx", inputs=files / "x.npy", engine="ours", output=output)
    run(options)
    assert output.read_bytes().startswith(b"<!doctype html>")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(output), "write_text", full)
    with pytest.raises(ConfigError, match=r"cannot write .*p\.html, because No space left on device"):
        run(options)


def test_what_another_engine_raises_is_one_line(files, monkeypatch):
    def failing(path, x):
        raise RuntimeError("Unexpected\ninput")

    monkeypatch.setitem(engine_profiles.ENGINES, "openvino", failing)
    options = {"model": files / "model.onnx", "inputs": files / "x.npy", "engine": "openvino"}
    with pytest.raises(
        ConfigError, match=r"openvino cannot run it with inputs of shape .* \(Unexpected input\)"
    ):
        run(Namespace(**options, output=files / "page.html"))


def test_a_missing_engine_is_named():
    with pytest.raises(ConfigError, match="needs the package nowhere"):
        engine_profiles._needed("nowhere")


@pytest.mark.parametrize(
    ("kind", "inputs", "output"),
    [
        ("Conv", [(1, 3, 12, 12), (16, 3, 3, 3), (16,)], (1, 16, 12, 12)),
        ("Convolution", [(2, 16, 9, 9), (16, 1, 1, 3, 3)], (2, 16, 9, 9)),
        ("Conv", [(1, 8, 10), (12, 4, 5)], (1, 12, 6)),
        ("ConvTranspose", [(1, 4, 5, 5), (4, 6, 2, 2)], (1, 6, 10, 10)),
        ("Gemm", [(7, 5), (3, 5), (3,)], (7, 3)),
        ("Gemm", [(5, 7), (5, 3)], (7, 3)),
        ("MatMul", [(2, 4, 6, 5), (2, 4, 5, 3)], (2, 4, 6, 3)),
        ("FullyConnected", [(1, 9, 5), (3, 5)], (1, 9, 3)),
    ],
)
def test_flops_are_those_that_torch_counts(kind, inputs, output):
    images, weights, *_ = (torch.zeros(shape) for shape in inputs)
    with FlopCounterMode(display=False) as counter:
        if kind == "ConvTranspose":
            functional.conv_transpose2d(images, weights, stride=2)
        elif kind.startswith("Conv"):
            groups = images.shape[1] // weights.shape[-3 if images.dim() == 4 else -2]
            weights = weights.reshape(output[1], -1, *weights.shape[2 - images.dim() :])
            convolve = functional.conv2d if images.dim() == 4 else functional.conv1d
            convolve(
                images,
                weights,
                padding=(output[-1] - images.shape[-1] + weights.shape[-1] - 1) // 2,
                groups=groups,
            )
        else:
            a = images.mT if images.shape[-2] != output[-2] else images
            b = weights.mT if weights.shape[-1] != output[-1] else weights
            a @ b
    assert flops_of(kind, inputs, output) == counter.get_total_flops()


def test_another_engines_layers_are_bound_by_compute_or_memory():
    layers = {
        "matrix": Ran("Gemm", 1e-3, 4e9, 8e3, 2e9),
        "convolution": Ran("Convolution", 1e-3, 4e4, 8e4, 1e9),
        "cast": Ran("Cast", 1e-3, 0.0, 1e4),
        "untold": Ran("Reorder", 1e-3),
    }
    limits = bounds(layers, TYPICAL_ROOFS)
    assert limits == {"matrix": "DRAM", "convolution": "compute", "cast": "L1"}
