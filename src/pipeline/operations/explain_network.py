"""Command `explain_network`: one page that says why each layer of a network is as fast as it is, on any engine."""

import importlib.util
from argparse import Namespace
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from pipeline.errors import ConfigError
from pipeline.operations.engine_profiles import ENGINES, MOVING, Row
from pipeline.runtime.words import counted

ENGINE_HEADINGS = (
    "engine",
    "layers",
    "FP32 ms",
    "half ms",
    "gain",
    "moves numbers",
    "takes longest in half precision",
)
NUMBER = ' class="number"'
HEADINGS = ("layer", "kernel that ran", "FP32 µs", "half µs", "gain", "kB", "MFLOP", "bound", "error", "why")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 3rem }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .6rem; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td:last-child { min-width: 22em }
.layers td:nth-child(2) { min-width: 11em }
.layers td:nth-child(4) { min-width: 5em }
.engines { max-width: 60rem }
th.number { text-align: right }
td.share { background: linear-gradient(to left, #cfe3f5 var(--share), transparent var(--share)) }
h1 { overflow-wrap: anywhere }
tr.moving td { background: #fff4e0 }
.wide { overflow-x: auto }
@media screen and (max-width: 62rem) {
  body { margin: 1rem auto }
  table, tbody { display: block }
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden }
  tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); gap: 0 1.6rem;
       padding: .6rem 0; border-bottom: 1px solid #ddd }
  td, td.number, td.share { display: flex; justify-content: space-between; gap: 0 1rem; padding: .1rem 0; border: 0;
                            background: none; white-space: normal; overflow-wrap: anywhere }
  td::before { content: attr(data-title); margin-right: .4em; color: #666 }
  td:first-child, .layers td:nth-child(2), td:last-child { grid-column: 1 / -1; display: block; min-width: 0 }
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


class Totals(NamedTuple):
    """What all layers take together.

    Attributes:
        single: Seconds at FP32.
        half: Seconds in half precision.
        moving: Share of `half` in which numbers are only moved between types or layouts.
    """

    single: float
    half: float
    moving: float

    @property
    def gain(self) -> str:
        """How many times faster half precision is; a dash where nothing ran in it."""
        return f"{self.single / self.half:.2f}x" if self.half else "–"


def totals(rows: Sequence[Row]) -> Totals:
    """Add up both runs."""
    half = sum(row.seconds_half or 0.0 for row in rows)
    moving = sum(row.seconds_half or 0.0 for row in rows if row.kernel.startswith(MOVING))
    return Totals(sum(row.seconds_fp32 or 0.0 for row in rows), half, moving / half if half else 0.0)


def summary(rows: Sequence[Row]) -> str:
    """Tell what both runs took, and how much of the half-precision run only moves numbers."""
    all_layers = totals(rows)
    take = "takes" if len(rows) == 1 else "take"
    return (
        f"{counted(len(rows), 'layer')} {take} {all_layers.single * 1e3:.2f} ms at FP32 and "
        f"{all_layers.half * 1e3:.2f} ms in half precision, {all_layers.gain}; "
        f"casts, reorders and copies take {all_layers.moving:.0%} of the time in "
        "half precision"
    )


def page(title: str, shape: Sequence[int], engines: Mapping[str, Sequence[Row]]) -> str:
    """The page, as HTML that needs nothing else."""
    parts = [
        f'<h2 id="{escape(name)}">{escape(name)}</h2><p>{escape(summary(rows))}.</p>{_table(rows)}'
        for name, rows in engines.items()
    ]
    title = escape(title)
    head = (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{STYLE}</style>'
    )
    about = (
        f"Times are medians for one sample of shape {tuple(shape)} on one core. Layers that only move numbers are "
        "shaded, and a bar behind a time compares it with the longest of its engine. Half precision is FP16 with FP32 "
        "arithmetic or BF16 products in our engine, FP16 in onnxruntime, and BF16 in OpenVINO."
    )
    return f"{head}<h1>Why {title} takes what it takes</h1><p>{about}</p>{_engines(engines)}{''.join(parts)}</html>"


def _engines(engines: Mapping[str, Sequence[Row]]) -> str:
    """The engines side by side, each with a link to its layers."""
    lines = []
    for name, rows in engines.items():
        all_layers = totals(rows)
        longest = sorted(rows, key=lambda row: row.seconds_half or 0.0, reverse=True)[:3]
        told = ", ".join(
            f"{row.layer} {(row.seconds_half or 0.0) / all_layers.half:.0%}"
            for row in longest
            if all_layers.half
        )
        texts = (
            str(len(rows)),
            f"{all_layers.single * 1e3:.2f}",
            f"{all_layers.half * 1e3:.2f}",
            all_layers.gain,
            f"{all_layers.moving:.0%}",
        )
        first, *numbers, last = ENGINE_HEADINGS
        link = f'<td data-title="{first}"><a href="#{escape(name)}">{escape(name)}</a></td>'
        cells = [
            f'<td data-title="{heading}"{NUMBER}>{text}</td>'
            for heading, text in zip(numbers, texts, strict=True)
        ]
        lines.append(f'<tr>{link}{"".join(cells)}<td data-title="{last}">{escape(told)}</td></tr>')
    return _framed(ENGINE_HEADINGS, lines, "engines")


def _table(rows: Sequence[Row]) -> str:
    longest = max((row.seconds_half or 0.0 for row in rows), default=0.0)
    return _framed(HEADINGS, [_line(row, longest) for row in rows], "layers")


def _framed(headings: Sequence[str], lines: Sequence[str], kind: str) -> str:
    texts = ("engine", "layer", "kernel that ran", "bound", headings[-1])
    head = "".join(
        f'<th scope="col"{"" if heading in texts else NUMBER}>{heading}</th>' for heading in headings
    )
    return (
        f'<div class="wide" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _line(row: Row, longest: float) -> str:
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
    share = f"--share: {100 * (row.seconds_half or 0.0) / (longest or 1.0):.1f}%"
    bar = f' class="number share" style="{share}"'
    classes = ("", "", NUMBER, bar, *(len(numbers) - 2) * (NUMBER,), "", NUMBER, "")
    cells = [  # on a phone, each has its heading beside it
        f'<td data-title="{heading}"{kind}>{escape(text)}</td>'
        for heading, kind, text in zip(HEADINGS, classes, texts, strict=True)
    ]
    kind = ' class="moving"' if row.kernel.startswith(MOVING) else ""
    return f"<tr{kind}>{''.join(cells)}</tr>"


def _number(value: float | None, factor: float) -> str:
    return "" if value is None else f"{value * factor:.4g}"
