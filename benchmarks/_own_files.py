"""Files like those of users, for benchmarks/own_data.py."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

ROWS_AT_ONCE = 500_000
#: Expansion, channels, repetitions and stride [Sandler et al., "MobileNetV2", CVPR 2018, table 2].
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def write_stations(path: Path, n: int) -> None:
    """Write rain at places in Central Europe as CSV: two waves, and noise of a tenth of their standard deviation."""
    rng = np.random.default_rng(0)
    longitude, latitude = rng.uniform(5, 16, n), rng.uniform(45, 55, n)
    field = 100 + 30 * np.sin(1.3 * longitude) * np.cos(0.9 * latitude)
    rain = field + 0.1 * field.std() * rng.standard_normal(n)
    np.savetxt(
        path,
        np.stack([longitude, latitude, rain], axis=1),
        fmt="%.6f",
        delimiter=",",
        header="lon,lat,mm",
        comments="",
    )


def write_rows(path: Path, n: int) -> None:
    """Write `n` rows of x, y and a value, in parts, in the format of the path's ending."""
    if path.suffix == ".npy":
        array = np.lib.format.open_memmap(path, "w+", np.float64, (n, 3))
        first = 0
        for part in _parts(n):
            array[first : first + len(part)] = part
            first += len(part)
        array.flush()
        return
    schema = pa.schema([(name, pa.float64()) for name in ("x", "y", "v")])
    writer = pa.csv.CSVWriter if path.suffix == ".csv" else pa.parquet.ParquetWriter
    with writer(path, schema) as file:
        for part in _parts(n):
            file.write_table(pa.table(list(part.T.copy()), schema=schema))


def _parts(n: int) -> Iterator[NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    for first in range(0, n, ROWS_AT_ONCE):
        part = rng.uniform(size=(min(ROWS_AT_ONCE, n - first), 3))
        part[:, 2] = np.sin(5 * part[:, 0]) + part[:, 1]
        yield part


def write_images(folder: Path, n: int) -> None:
    """Write `n` gray images of 8 x 8 pixels in ten classes; nine of ten are for training."""
    rng = np.random.default_rng(0)
    for label in range(10):
        dark, bright = folder / "dark.png", folder / "bright.png"
        folder.mkdir(parents=True, exist_ok=True)
        for path, level in ((dark, 0), (bright, 128)):
            pixels = rng.integers(level, level + 128, (8, 8), dtype=np.uint8)
            pixels[label % 8, :] = 255
            Image.fromarray(pixels).save(path)
        contents = [dark.read_bytes(), bright.read_bytes()]
        dark.unlink(), bright.unlink()
        for part, count in (("train", n * 9 // 100), ("test", n // 100)):
            place = folder / part / f"class{label}"
            place.mkdir(parents=True)
            for i in range(count):
                (place / f"{i:05d}.png").write_bytes(contents[i % 2])


def write_mobilenet(path: Path, size: int = 224) -> None:
    """Write a network of MobileNetV2's shape, batch normalizations folded, with random weights."""
    network = _Network()
    x, channels = network.convolution("x", 3, 32, size=3, stride=2), 32
    for expansion, outputs, repetitions, first_stride in STAGES:
        for place in range(repetitions):
            stride = first_stride if place == 0 else 1
            inner, y = channels * expansion, x
            if expansion > 1:
                y = network.convolution(y, channels, inner, size=1)
            y = network.convolution(y, inner, inner, size=3, stride=stride, groups=inner)
            y = network.convolution(y, inner, outputs, size=1, linear=True)
            x = network.node("Add", x, y) if stride == 1 and channels == outputs else y
            channels = outputs
    x = network.convolution(x, channels, 1280, size=1)
    x = network.node("Flatten", network.node("GlobalAveragePool", x))
    network.node("Gemm", x, network.weights(1000, 1280), network.weights(1000), transB=1, output="y")
    network.save(path, size)


class _Network:
    """The nodes of a graph, collected one by one."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors = [numpy_helper.from_array(np.float32(bound), f"{bound}") for bound in (0, 6)]

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def weights(self, *shape: int) -> str:
        """Weights that keep the size of activations [He et al., ICCV 2015]; small biases."""
        size = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        drawn = (self.rng.standard_normal(shape) * size).astype(np.float32)
        self.tensors.append(numpy_helper.from_array(drawn, f"weights_{len(self.tensors)}"))
        return self.tensors[-1].name

    def convolution(
        self,
        x: str,
        inputs: int,
        outputs: int,
        *,
        size: int,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> str:
        weights = self.weights(outputs, inputs // groups, size, size), self.weights(outputs)
        y = self.node("Conv", x, *weights, strides=[stride] * 2, pads=[size // 2] * 4, group=groups)
        return y if linear else self.node("Clip", y, "0", "6")

    def save(self, path: Path, size: int) -> None:
        graph = helper.make_graph(
            self.nodes,
            "mobilenet_v2",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, size, size))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 1000))],
            self.tensors,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
