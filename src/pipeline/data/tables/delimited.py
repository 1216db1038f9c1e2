"""CSV files: names in the first line, then a line for each row."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from pipeline.data.tables.table import (
    FINITE,
    OpenTable,
    Rows,
    no_larger,
    unreadable,
    wrong_value,
)
from pipeline.errors import ConfigError
from pipeline.options import LARGEST

BLOCK_BYTES = 1 << 22
OTHER_SEPARATORS = (";", "\t", "|")


def open_csv(path: Path) -> OpenTable:
    """Open a CSV file in UTF-8 with commas between values.

    Blank lines at the end are not rows. pyarrow reads the file, some megabytes at a time. A file that it refuses is
    read again, row by row, to find the mistake.
    """
    header = _header(path)
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: column {twice!r} occurs twice; rename one of them")
    return OpenTable(path, tuple(header), lambda names: _read(path, header, names))


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            header = [name.strip() for name in next(csv.reader(file), [])]
        except (UnicodeDecodeError, csv.Error):
            raise ConfigError(f"{path}: not a text file; save it as CSV in UTF-8") from None
    if "\0" in "".join(header):
        raise ConfigError(f"{path}: not a text file; save it as CSV in UTF-8")
    separator = next((mark for mark in OTHER_SEPARATORS if len(header) == 1 and mark in header[0]), None)
    if separator is not None:
        raise ConfigError(
            f"{path}: its first line is separated by {separator!r}; save it with commas between values and points in "
            "numbers"
        )
    return header


def _read(path: Path, header: Sequence[str], names: Sequence[str]) -> Iterator[Rows]:
    import pyarrow
    from pyarrow import csv as arrow

    try:
        reader = arrow.open_csv(
            pyarrow.OSFile(str(path)).get_stream(0, _bytes_before_blank_end(path)),
            read_options=arrow.ReadOptions(
                use_threads=False, block_size=BLOCK_BYTES, skip_rows=1, column_names=list(header)
            ),
            parse_options=arrow.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=arrow.ConvertOptions(
                include_columns=list(names),
                column_types=dict.fromkeys(names, pyarrow.float64()),
                null_values=[""],
            ),
        )
        for batch in reader:
            part = np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns], axis=1)
            if not np.all(np.abs(part) <= LARGEST):
                _find_the_mistake(path, header, names)
            yield part
    except pyarrow.ArrowInvalid as error:
        if "Empty CSV file" in str(error) or "Could not skip initial" in str(error):  # only a first line
            return
        _find_the_mistake(path, header, names)
        raise unreadable(path, error, "save it as CSV in UTF-8") from None
    finally:
        # pyarrow's allocator would keep the memory of the batches.
        pyarrow.default_memory_pool().release_unused()


def _bytes_before_blank_end(path: Path) -> int:
    """Return the size of a file without blank lines at its end; the end of the last row is kept."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            first = file.seek(max(0, end - BLOCK_BYTES))
            kept = len(file.read(end - first).rstrip())
            if kept:
                return file.seek(first + kept) + len(file.readline())
            end = first
    return 0


def _without_blank_end(lines: Iterable[str]) -> Iterator[str]:
    blank = []
    for line in lines:
        blank.append(line)
        if line.strip():
            yield from blank
            blank.clear()


def _find_the_mistake(path: Path, header: Sequence[str], names: Sequence[str]) -> None:
    """Raise the error about the first wrong row, if there is one."""
    places = [(name, header.index(name)) for name in names]
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(_without_blank_end(file))
        for number in count():
            # Editors number lines, which include the header; a row whose quoted text has line breaks takes several.
            at = f"row {number} (line {rows.line_num + 1})"
            try:
                row = next(rows, None)
            except UnicodeDecodeError:
                raise ConfigError(f"{path}: not a text file; save it as CSV in UTF-8") from None
            except csv.Error as error:
                raise ConfigError(f"{path}: {at}: {error}; correct the row or leave it out") from None
            if row is None:
                return
            if number == 0:
                continue
            row = row or [""] * len(header)
            if len(row) != len(header):
                raise ConfigError(
                    f"{path}: {at}: wanted {len(header)} values, found {len(row)}; correct the row or leave it out"
                )
            for name, place in places:
                text = row[place]
                try:
                    value = float(text) if "_" not in text and text.isascii() else np.inf
                except ValueError:
                    value = np.inf
                if not abs(value) <= LARGEST:
                    found = text if text and not np.isnan(value) else "no value"
                    wanted = no_larger() if np.isfinite(value) else FINITE
                    raise wrong_value(path, number, name, found, at.removeprefix(f"row {number}"), wanted)
