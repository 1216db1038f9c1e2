"""The end of a log that another process writes."""

import os
from pathlib import Path

BYTES = 8192


def last_lines(path: Path | None, n: int) -> list[str]:
    """Return the last lines that are not empty, without control characters; none if the log can't be read."""
    if path is None:
        return []
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - BYTES, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    # A carriage return starts a line over: a terminal would show only the text after the last one.
    lines = (line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n"))
    shown = ("".join(letter for letter in line if letter.isprintable()).strip() for line in lines)
    return [line for line in shown if line][-n:]


def refusal(path: Path) -> str:
    """Return the line with which a job refused to go on; an empty text where its log shows a fault of the program."""
    lines = last_lines(path, 50)
    told = [line for line in lines if line.startswith("error: ")]
    faulty = any(line.startswith("Traceback (most recent call last)") for line in lines)
    return told[-1] if told and not faulty else ""


def newest(path: Path | None, name: str = "") -> str:
    """Return the last line of a job's log, without a label before a colon that repeats the job's name."""
    line = "".join(last_lines(path, 1))
    label, _, rest = line.partition(": ")
    own = any(word in name.split() for word in label.replace(",", " ").split())
    return rest if rest and own else line
