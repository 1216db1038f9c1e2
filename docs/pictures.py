"""Draw the picture of results that README.md and docs/results.md show, from the figures in benchmarks/results.

`python docs/pictures.py` writes docs/images/results.svg.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
TIME = "build + factorize + solve [s]"
OURS, PEER = "#3b6fb6", "#b9b9b9"


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


def draw(path: Path) -> None:
    """Write the picture as SVG."""
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
        "FOP, 4,096": largest - above[other.format("fop")],
        "Muon, 4,096": largest - above[other.format("muon")],
    }
    values = list(bars.values())
    _bars(steps, list(bars), values, [f"{value:+.2f}" for value in values])
    steps.set_xlim(1.1 * min(values), max(values) + 0.7)
    steps.axvline(0, color="k", lw=0.8)
    steps.set_title("Fewer steps: accuracy points\nabove SGD with batches of 64", fontsize=9)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(ROOT / "docs" / "images" / "results.svg")
