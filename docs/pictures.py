"""Draw the pictures that the documents show, into docs/images.

`python docs/pictures.py results architecture examples` draws all of them, and fewer names only some:

- `results`: the gains that README.md and docs/results.md show, from the figures in benchmarks/results;
- `architecture`: the flow of a study and the layers of the code;
- `examples`: one picture for each numbered script in examples, in one to two minutes.
"""

import argparse
import json
import os
import runpy
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
TIME = "build + factorize + solve [s]"
OURS, PEER = "#3b6fb6", "#b9b9b9"
STEPS, BITS, NUMBERS, PLAIN = "#d6e4f5", "#fbe3c8", "#d5ecd4", "#eeeeee"

# Where each stage stands in the picture of the architecture, and what color it has.
STAGES = {
    "dataset": (9, 32, STEPS),
    "tune": (26, 42, STEPS),
    "train": (41, 32, STEPS),
    "predict": (76, 42, STEPS),
    "convert": (58, 32, BITS),
    "time_layers": (76, 32, BITS),
    "embeddings": (58, 22, NUMBERS),
    "points": (41, 12, NUMBERS),
    "compress": (58, 12, NUMBERS),
    "solve": (76, 12, NUMBERS),
    "scaling": (76, 2, NUMBERS),
    "report": (94, 32, PLAIN),
    "clean_checkpoints": (12, 2, PLAIN),
}
FLOW = {
    "dataset": ("tune", "train"),
    "tune": ("train",),
    "train": ("predict", "convert"),
    "convert": ("time_layers", "embeddings"),
    "embeddings": ("compress",),
    "points": ("compress",),
    "compress": ("solve",),
    "predict": ("report",),
    "time_layers": ("report",),
    "solve": ("report",),
    "scaling": ("report",),
}
LAYERS = (
    (("__main__",), "the command line"),
    (("stages", "operations"), "one file per rule; commands for whole studies"),
    (("config",), "the sections of a study"),
    (("data", "models", "training", "precision", "hmatrix", "report"), "arrays alone; none knows another"),
    (("meshes",), "triangles and their diagnosis"),
    (("runtime",), "processes, devices, clocks"),
    (("artifacts",), "folders with manifests, history"),
    (("errors", "options"), "what a user can act on; bounds"),
)
CORES = {"training": STEPS, "precision": BITS, "hmatrix": NUMBERS}


def _cases(benchmark: str) -> list[dict[str, Any]]:
    document = json.loads((ROOT / "benchmarks" / "results" / f"{benchmark}.json").read_text())
    return list(document["cases"])


def _find(cases: list[dict[str, Any]], case: str, quantity: str) -> dict[str, Any]:
    """Return the one row of a case that has a peer; `case` is how its name begins."""
    rows = [row for row in cases if row["case"].startswith(case) and row["quantity"] == quantity]
    return next(row for row in rows if row["ratio"] is not None or row["peer"] is None)


def _bars(axes: Any, labels: list[str], values: list[float], texts: list[str]) -> None:
    axes.barh(labels, values, color=OURS)
    for place, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.text(max(value, 0), place, f" {text}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def draw_results() -> None:
    """Write results.svg."""
    matplotlib.rcParams["svg.hashsalt"] = "parsimony"
    figure = Figure(figsize=(11, 2.5), layout="constrained")
    numbers, bits, steps = figure.subplots(1, 3)

    found = [_find(_cases("hmatrix"), case, TIME) for case in ("square 65536", "sphere 65536", "cube 16384")]
    _bars(
        numbers,
        ["65,536 points, square", "65,536 points, sphere", "16,384 points, cube"],
        [row["ratio"] for row in found],
        [f"{row['ratio']:.1f}x {row['peer_name']}" for row in found],
    )
    numbers.set_title("Fewer numbers: compress and solve,\ntimes as fast as the peer", fontsize=9)
    numbers.set_xlim(0, 2.6 * max(row["ratio"] for row in found))

    layers = {
        "fully connected 4096": "FC 4096x4096, cold/best FP32",
        "convolution 64 at 32x32": "conv3x3 64 @32/best FP32",
        "convolution 512 at 4x4": "conv3x3 512 @4/best FP32",
        "ResNet-18 at 32x32": "ResNet-18 @32/best FP32",
    }
    found = [_find(_cases("precision"), case, "time [µs]") for case in layers.values()]
    _bars(
        bits,
        list(layers),
        [row["ratio"] for row in found],
        [f"{row['ratio']:.1f}x {row['peer_name']}" for row in found],
    )
    bits.set_title("Fewer bits: one core, batch 1,\ntimes as fast as the fastest FP32 engine", fontsize=9)
    bits.set_xlim(0, 2.3 * max(row["ratio"] for row in found))

    points = "test accuracy above peer [points]"
    above = {row["case"]: row["ours"] for row in _cases("large_batch") if row["quantity"] == points}
    alike = "tuned alike: smoothed K-FAC, batch {}/beside sgd_64"
    other = "tuned alike: beside {0}, batch 4096/beside {0}_4096"
    largest = above[alike.format(4096)]
    bars = {
        "smoothed K-FAC, 1,024": above[alike.format(1024)],
        "smoothed K-FAC, 4,096": largest,
        "smoothed FOP, 4,096": largest - above[other.format("fop_smoothed")],
        "smoothed Muon, 4,096": largest - above[other.format("muon_smoothed")],
    }
    values = list(bars.values())
    _bars(steps, list(bars), values, [f"{value:+.2f}" for value in values])
    steps.set_xlim(1.1 * min(values), max(values) + 0.7)
    steps.axvline(0, color="k", lw=0.8)
    steps.set_title("Fewer steps, on Fashion-MNIST:\npoints above SGD at batch 64", fontsize=9)
    figure.savefig(IMAGES / "results.svg", metadata={"Date": None})


def _box(axes: Any, x: float, y: float, text: str, color: str) -> Any:
    style = {"boxstyle": "round,pad=0.45", "facecolor": color, "edgecolor": "#555555", "linewidth": 0.8}
    return axes.text(x, y, text, ha="center", va="center", fontsize=9.5, bbox=style)


def _arrow(
    axes: Any, start: tuple[float, float], end: tuple[float, float], leaves: Any, reaches: Any
) -> None:
    """Draw an arrow between the middles of two boxes, from edge to edge."""
    style = {"arrowstyle": "-|>", "color": "#555555", "shrinkA": 3, "shrinkB": 3}
    axes.annotate("", xy=end, xytext=start, arrowprops=style | {"patchA": leaves, "patchB": reaches})


def draw_architecture() -> None:
    """Write architecture.svg: how results flow from stage to stage, and which layer of the code stands on which."""
    matplotlib.rcParams["svg.hashsalt"] = "parsimony"
    matplotlib.rcParams["svg.fonttype"] = "none"  # words stay words
    figure = Figure(figsize=(8.4, 6.6), layout="constrained")
    flow, layers = figure.subplots(2, 1, height_ratios=(1, 1))
    for axes, title in ((flow, "The flow of a study: its stages"), (layers, "The layers of the code")):
        axes.set(xlim=(0, 100), ylim=(-2, 47))
        axes.axis("off")
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")

    boxes = {name: _box(flow, x, y, name, color) for name, (x, y, color) in STAGES.items()}
    for start, end in ((start, end) for start, ends in FLOW.items() for end in ends):
        _arrow(
            flow,
            STAGES[start][:2],
            STAGES[end][:2],
            boxes[start].get_bbox_patch(),
            boxes[end].get_bbox_patch(),
        )
    inputs = {
        "places, values, meshes:\ndata sets or your files": ((12, 12), "points"),
        "images: data sets\nor your files": ((9, 42), "dataset"),
    }
    for text, (start, end) in inputs.items():
        label = flow.text(*start, text, ha="center", va="center", fontsize=9.5, color="#333333")
        _arrow(flow, start, STAGES[end][:2], label, boxes[end].get_bbox_patch())

    for place, (names, text) in enumerate(LAYERS):
        y = 44 - 6 * place
        layers.axhspan(y - 2.6, y + 2.6, 0, 0.66, color="#f7f7f7")
        for column, name in enumerate(names):
            x = 33 + 11 * (column - (len(names) - 1) / 2)
            _box(layers, x, y, name, CORES.get(name, PLAIN))
        layers.text(68, y, text, va="center", fontsize=9.5, color="#333333")
    figure.savefig(IMAGES / "architecture.svg", metadata={"Date": None})


def draw_examples() -> None:
    """Run every numbered example in a folder of its own, and keep its picture as a small PNG."""
    matplotlib.use("Agg")
    for example in sorted((ROOT / "examples").glob("ex[0-9][0-9]_*.py")):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            runpy.run_path(str(example), run_name="__main__")
            with Image.open(f"{example.stem}.png") as picture:
                # 256 colors are enough for lines and maps, and take half of the bytes.
                picture.convert("RGB").quantize(256).save(IMAGES / f"{example.stem}.png", optimize=True)
            os.chdir(ROOT)


DRAW = {"results": draw_results, "architecture": draw_architecture, "examples": draw_examples}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=DRAW, metavar="NAME", help=", ".join(DRAW))
    for name in parser.parse_args().names:
        with matplotlib.rc_context():
            DRAW[name]()
