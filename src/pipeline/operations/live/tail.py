"""The end of a log that another process writes."""

import os
from pathlib import Path

BYTES = 8192


def last_lines(path: Path | None, n: int) -> list[str]:
    """The last lines that are not empty, without control characters; none if the log can't be read."""
    if path is None:
        return []
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - BYTES, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    # A carriage return starts a line over: what stands behind the last one is what a terminal would show.
    lines = (line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n"))
    shown = ("".join(letter for letter in line if letter.isprintable()).strip() for line in lines)
    return [line for line in shown if line][-n:]


def newest(path: Path | None, label: str = "") -> str:
    """What a running job said last, without the label that its lines begin with."""
    lines = last_lines(path, 1)
    if not lines:
        return ""
    head, separator, rest = lines[0].partition(": ")
    return (
        rest
        if separator and len(head) <= 60 and (not label or head.split()[0].strip(",") in label)
        else lines[0]
    )
