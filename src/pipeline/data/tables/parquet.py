"""Parquet files."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.data.tables.table import ROWS_AT_ONCE, OpenTable, Rows, unreadable
from pipeline.errors import ConfigError


def open_parquet(path: Path) -> OpenTable:
    """Open a Parquet file: its columns of numbers; a field's metadata `unit` or `units` is its unit."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise unreadable(path, error, "write it again as Parquet") from None
    schema = file.schema_arrow
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: column {twice!r} occurs twice; rename one of them")
    numeric = [
        entry
        for entry in schema
        if pyarrow.types.is_integer(entry.type) or pyarrow.types.is_floating(entry.type)
    ]
    units = {
        entry.name: value.decode(errors="replace")
        for entry in numeric
        for key in (b"units", b"unit")
        if (value := (entry.metadata or {}).get(key))
    }
    if not numeric:
        kinds = ", ".join(f"{entry.name} {entry.type}" for entry in schema) or "no columns"
        raise ConfigError(f"{path}: has no column of numbers, found {kinds}; write the points as numbers")

    def read(names: Sequence[str]) -> Iterator[Rows]:
        # Arrow keeps the memory of an iteration until its end, so each group of rows gets its own iteration.
        groups = (
            file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=list(names), use_threads=False)
            for group in range(file.num_row_groups)
        )
        try:
            for batch in itertools.chain.from_iterable(groups):
                yield np.stack(
                    [
                        batch.column(name).cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False)
                        for name in names
                    ],
                    axis=1,
                )
        except (pyarrow.ArrowException, OSError) as error:
            raise unreadable(path, error, "write it again as Parquet") from None

    return OpenTable(path, tuple(entry.name for entry in numeric), read, units, n=file.metadata.num_rows)
