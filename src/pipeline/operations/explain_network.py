"""Command `explain_network`: one page that says why each layer of a network is as fast as it is, on any engine."""

import importlib.util
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.samples import read_samples
from pipeline.errors import ConfigError
from pipeline.operations.engine_profiles import ENGINES, MOVING, Explained, Row
from pipeline.operations.templates import filled
from pipeline.runtime.words import counted

ENGINE_HEADINGS = (
    "engine", "layers", "FP32 ms", "half ms", "gain", "moves numbers", "error", "takes longest in half precision",
)  # fmt: skip
HEADINGS = ("layer", "kernel that ran", "FP32 µs", "half µs", "gain", "kB", "MFLOP", "bound", "error", "why")
BEGINNING = b"<!doctype html"
#: Headings of columns that hold words; all other columns hold numbers.
WORDS = ("engine", ENGINE_HEADINGS[-1], "layer", "kernel that ran", "bound", "why")


def run(options: Namespace) -> None:
    """Run the network on the requested engines, or on all that are installed, and write the page."""
    x = read_samples(options.inputs, None)[0].numpy()
    if x.ndim < 2:
        raise ConfigError(f"{options.inputs}: holds shape {x.shape}; wanted at least one sample, (n, ...)")
    _require_writable(options.output)
    names = (
        [options.engine]
        if options.engine
        else [name for name in ENGINES if name == "ours" or importlib.util.find_spec(name)]
    )
    found = {name: _explained(name, options.model, x) for name in names}
    try:
        options.output.write_text(page(options.model.name, x.shape[1:], found), encoding="utf-8")
    except OSError as failure:
        raise ConfigError(f"cannot write {options.output}, because {failure.strerror}") from failure
    for name, of_engine in found.items():
        print(f"{name}: {summary(of_engine)}")
    print(options.output)


def _require_writable(path: Path) -> None:
    """Make the page's folder, and refuse a page that cannot be written or would replace another file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise ConfigError(f"cannot write {path}, because {failure.filename}: {failure.strerror}") from None
    if path.is_dir():
        raise ConfigError(f"cannot write {path}, because it is a folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"cannot write {path}, because writing there is not permitted")
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if not file.read(len(BEGINNING)).lower().startswith(BEGINNING):
                raise ConfigError(
                    f"cannot write {path}, because there is a file that is no page; give another name"
                )


def _explained(name: str, model: Path, x: NDArray[np.float32]) -> Explained:
    """Run the network on one engine; turn any error of another engine into one line."""
    try:
        return ENGINES[name](model, x)
    except ConfigError:
        raise
    except Exception as failure:
        if name == "ours":
            raise
        text = " ".join(str(failure).split())[:200]
        raise ConfigError(
            f"{model}: {name} cannot run it with inputs of shape {x.shape} ({text}); choose the engines that can by "
            "--engine"
        ) from failure


class Totals(NamedTuple):
    """Seconds of all layers at FP32 and in half precision, and the share of the latter that only moves numbers."""

    single: float
    half: float
    moving: float

    @property
    def gain(self) -> str:
        """How many times faster half precision is; a dash where nothing ran in it."""
        return f"{self.single / self.half:.2f}x" if self.half else "–"


def totals(rows: Sequence[Row]) -> Totals:
    half = sum(row.seconds_half or 0.0 for row in rows)
    moving = sum(row.seconds_half or 0.0 for row in rows if row.kernel.startswith(MOVING))
    return Totals(sum(row.seconds_fp32 or 0.0 for row in rows), half, moving / half if half else 0.0)


def summary(found: Explained) -> str:
    """Tell the times of both runs, which share of the half-precision one only moves numbers, and the answers' error."""
    n_layers, all_layers = len(found.rows), totals(found.rows)
    take = "takes" if n_layers == 1 else "take"
    off = "" if found.error is None else f"; its answers are off by {found.error:.1e}"
    return (
        f"{counted(n_layers, 'layer')} {take} {all_layers.single * 1e3:.2f} ms at FP32 and "
        f"{all_layers.half * 1e3:.2f} ms in half precision, {all_layers.gain}; "
        f"casts, reorders and copies take {all_layers.moving:.0%} of the time in "
        f"half precision{off}"
    )


def page(title: str, shape: Sequence[int], engines: Mapping[str, Explained]) -> str:
    """Return the page as HTML that needs no other file."""
    return filled(
        "explain_network.html",
        title=title,
        shape=tuple(shape),
        headings=HEADINGS,
        engine_headings=ENGINE_HEADINGS,
        texts=WORDS,
        side_by_side=[_engine(name, found) for name, found in engines.items()],
        engines=[(name, summary(found), _layers(found.rows)) for name, found in engines.items()],
    )


class Line(NamedTuple):
    """A row of a table: its cells, whether it is shaded, and the length of the bar behind a time."""

    cells: Sequence[str]
    moving: bool = False
    share: str = ""


def _engine(name: str, found: Explained) -> Line:
    """Return the table row of an engine, with the layers that take longest."""
    rows, total = found.rows, totals(found.rows)
    longest = sorted(rows, key=lambda row: row.seconds_half or 0.0, reverse=True)[:3] if total.half else []
    told = ", ".join(f"{row.layer} {(row.seconds_half or 0.0) / total.half:.0%}" for row in longest)
    times = f"{total.single * 1e3:.2f}", f"{total.half * 1e3:.2f}"
    return Line((name, str(len(rows)), *times, total.gain, f"{total.moving:.0%}", _error(found.error), told))


def _layers(rows: Sequence[Row]) -> list[Line]:
    longest = max((row.seconds_half or 0.0 for row in rows), default=0.0) or 1.0
    return [
        Line(
            (
                row.layer, row.kernel, _number(row.seconds_fp32, 1e6), _number(row.seconds_half, 1e6),
                f"{row.seconds_fp32 / row.seconds_half:.2f}x" if row.seconds_fp32 and row.seconds_half else "",
                _number(row.n_bytes, 1e-3), _number(row.flops, 1e-6), row.bound,
                _error(row.error), row.reason,
            ),
            moving=row.kernel.startswith(MOVING),
            share=f"{100 * (row.seconds_half or 0.0) / longest:.1f}%",
        )
        for row in rows
    ]  # fmt: skip


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _number(value: float | None, factor: float) -> str:
    return "" if value is None else f"{value * factor:.4g}"
