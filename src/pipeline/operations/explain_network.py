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
.wide { overflow-x: auto }
@media screen and (max-width: 62rem) {
  body { margin: 1rem auto }
  table, tbody { display: block }
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden }
  tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); gap: 0 1.6rem;
       padding: .6rem 0; border-bottom: 1px solid #ddd }
  td, td.number { display: flex; justify-content: space-between; gap: 0 1rem; padding: .1rem 0; border: 0;
                  white-space: normal; overflow-wrap: anywhere }
  td::before { content: attr(data-title); margin-right: .4em; color: #666 }
  td:first-child, td:nth-child(2), td:last-child { grid-column: 1 / -1; display: block; min-width: 0 }
  td:first-child { font-weight: 600 }
  td:first-child::before, td:last-child::before { content: "" }
}
@media print { .wide { overflow: visible } tr { break-inside: avoid } }
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
        f"{len(rows)} layers take {single * 1e3:.2f} ms at FP32 and {half * 1e3:.2f} ms in half precision, "
        f"{gain:.2f}x; casts, reorders and copies take {moving / half if half else 0:.0%} of the time in half precision"
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
        f"Times are medians for one sample of shape {tuple(shape)} on one core. Layers that only move numbers are "
        "shaded. Half precision is FP16 with FP32 arithmetic or BF16 products in our engine, FP16 in onnxruntime, and "
        "BF16 in OpenVINO."
    )
    return f"{head}<h1>Why {title} takes what it takes</h1><p>{about}</p>{''.join(parts)}</html>"


def _table(rows: Sequence[Row]) -> str:
    head = "".join(f'<th scope="col">{heading}</th>' for heading in HEADINGS)
    body = "".join(map(_line, rows))
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _line(row: Row) -> str:
    gain = row.seconds_fp32 / row.seconds_half if row.seconds_fp32 and row.seconds_half else None
    numbers = (
        _number(row.seconds_fp32, 1e6),
        _number(row.seconds_half, 1e6),
        "" if gain is None else f"{gain:.2f}x",
        _number(row.n_bytes, 1e-3),
        _number(row.flops, 1e-6),
    )
    error = "" if row.error is None else f"{row.error:.1e}"
    texts = (row.layer, row.kernel, *numbers, row.bound, error, row.reason)
    classes = (*2 * ("",), *len(numbers) * (' class="number"',), *3 * ("",))
    cells = [  # on a phone, each has its heading beside it
        f'<td data-title="{heading}"{kind}>{escape(text)}</td>'
        for heading, kind, text in zip(HEADINGS, classes, texts, strict=True)
    ]
    kind = ' class="moving"' if row.kernel.startswith(MOVING) else ""
    return f"<tr{kind}>{''.join(cells)}</tr>"


def _number(value: float | None, factor: float) -> str:
    return "" if value is None else f"{value * factor:.4g}"
