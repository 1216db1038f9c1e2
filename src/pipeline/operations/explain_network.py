"""Command `explain_network`: one page that says why each layer of a network is as fast as it is, on any engine."""

import importlib.util
from argparse import Namespace
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from pipeline.errors import ConfigError
from pipeline.operations.engine_profiles import ENGINES, MOVING, Row

HEADINGS = ("layer", "kernel that ran", "FP32 µs", "half µs", "gain", "kB", "MFLOP", "bound", "error", "why")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 3rem }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .6rem; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td:last-child { min-width: 22em }
h1 { overflow-wrap: anywhere }
tr.moving td { background: #fff4e0 }
.wide { overflow-x: auto; margin: 1rem 0 3rem }
.wide table { margin: 0 }
@media (max-width: 46rem) {
  body { margin: 1rem auto }
  td, th { min-width: 4rem }
  td:last-child { min-width: 16rem }
}
"""


def run(options: Namespace) -> None:
    """Run the network on the engines that are asked for, or on all that are installed, and write the page."""
    try:
        x = np.load(options.inputs, allow_pickle=False).astype(np.float32)
    except (OSError, ValueError) as failure:
        raise ConfigError(f"{options.inputs}: not an array in a .npy file ({failure})") from None
    if x.ndim < 2 or len(x) == 0:
        raise ConfigError(f"{options.inputs}: holds shape {x.shape}; wanted at least one sample, (n, ...)")
    names = (
        [options.engine]
        if options.engine
        else [name for name in ENGINES if name == "ours" or _installed(name)]
    )
    rows = {name: ENGINES[name](options.model, x) for name in names}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page(options.model.name, x.shape[1:], rows), encoding="utf-8")
    for name, of_engine in rows.items():
        print(f"{name}: {summary(of_engine)}")
    print(options.output)


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def summary(rows: Sequence[Row]) -> str:
    """Tell what both runs took, and how much of the half-precision run only moves numbers."""
    single = sum(row.seconds_fp32 or 0.0 for row in rows)
    half = sum(row.seconds_half or 0.0 for row in rows)
    moving = sum(row.seconds_half or 0.0 for row in rows if row.kernel.startswith(MOVING))
    gain = single / half if half else 1.0
    return (
        f"{len(rows)} layers, {single * 1e3:.2f} ms at FP32 and {half * 1e3:.2f} ms in half precision, {gain:.2f}x; "
        f"casts, reorders and copies take {moving / half if half else 0:.0%} of the latter"
    )


def page(title: str, shape: Sequence[int], engines: Mapping[str, Sequence[Row]]) -> str:
    """The page, as HTML that needs nothing else."""
    parts = [
        f"<h2>{escape(name)}</h2><p>{escape(summary(rows))}.</p>{_table(rows)}"
        for name, rows in engines.items()
    ]
    title = escape(title)
    head = (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{STYLE}</style>'
    )
    about = (
        f"One sample of shape {tuple(shape)}, one core, medians. Layers that only move numbers are shaded. Half "
        "precision is FP16 with FP32 arithmetic or BF16 products in ours, FP16 in onnxruntime, and BF16 in OpenVINO."
    )
    return f"{head}<h1>Why {title} takes what it takes</h1><p>{about}</p>{''.join(parts)}</html>"


def _table(rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
    return f'<div class="wide" tabindex="0"><table><tr>{head}</tr>{"".join(map(_line, rows))}</table></div>'


def _line(row: Row) -> str:
    gain = row.seconds_fp32 / row.seconds_half if row.seconds_fp32 and row.seconds_half else None
    numbers = (
        _number(row.seconds_fp32, 1e6),
        _number(row.seconds_half, 1e6),
        "" if gain is None else f"{gain:.2f}x",
        _number(row.n_bytes, 1e-3),
        _number(row.flops, 1e-6),
    )
    cells = [f"<td>{escape(row.layer)}</td><td>{escape(row.kernel)}</td>"]
    cells += [f'<td class="number">{number}</td>' for number in numbers]
    error = "" if row.error is None else f"{row.error:.1e}"
    cells.append(f"<td>{escape(row.bound)}</td><td>{error}</td><td>{escape(row.reason)}</td>")
    kind = ' class="moving"' if row.kernel.startswith(MOVING) else ""
    return f"<tr{kind}>{''.join(cells)}</tr>"


def _number(value: float | None, factor: float) -> str:
    return "" if value is None else f"{value * factor:.4g}"
