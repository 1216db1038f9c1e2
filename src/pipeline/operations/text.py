"""Tables, times, sizes and lines for a terminal."""

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Align rows below a header; columns whose numbers are in `right` are right-aligned."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = (
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A time in at most two units: 43 s, 5 min 10 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(n_bytes: float) -> str:
    """A size in decimal units."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= limit:
            return f"{n_bytes / limit:.3g} {unit}"
    return f"{n_bytes:.0f} B"


def tell(line: str) -> None:
    """Print a line to stderr, but only between whole lines: Snakemake writes a record and its line end in two steps."""
    with ExitStack() as quiet:
        for handler in logging.getLogger("snakemake.logging").handlers:
            handler.acquire()
            quiet.callback(handler.release)
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
