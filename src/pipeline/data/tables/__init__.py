"""Tables of numbers from files: CSV, NumPy's arrays, Parquet, NetCDF, GeoJSON and GeoTIFF.

A new format is one file with one function, and one line in `FORMATS`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.own_file import require_file
from pipeline.data.tables.delimited import open_csv
from pipeline.data.tables.geojson import open_geojson
from pipeline.data.tables.geotiff import open_geotiff
from pipeline.data.tables.netcdf import open_netcdf
from pipeline.data.tables.numpy_files import open_npy, open_npz
from pipeline.data.tables.parquet import open_parquet
from pipeline.data.tables.table import OpenTable, WrongValueError
from pipeline.errors import ConfigError

__all__ = ["FORMATS", "OpenTable", "WrongValueError", "open_table", "read_columns"]

FORMATS: dict[str, Callable[[Path], OpenTable]] = {
    ".csv": open_csv,
    ".npy": open_npy,
    ".npz": open_npz,
    ".parquet": open_parquet,
    ".nc": open_netcdf,
    ".geojson": open_geojson,
    ".tif": open_geotiff,
}


def open_table(path: Path) -> OpenTable:
    """Open a file of columns; its ending tells its format.

    Raises:
        ConfigError: If there is no such file, or it is not of the format of its ending.
    """
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise ConfigError(
            f"{path}: wanted a file that ends in {', '.join(FORMATS)}; write the points as one of these"
        )
    require_file(path)
    try:
        return FORMATS[kind](path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); write it again") from None


def read_columns(path: Path, names: Sequence[str] | None = None) -> dict[str, NDArray[np.float64]]:
    """Read columns of numbers by name, all at once.

    Args:
        path: The file.
        names: The columns to read; all by default.

    Raises:
        ConfigError: If `open_table` or `OpenTable.parts` refuses the file.
    """
    table = open_table(path)
    chosen = table.chosen(names)
    rows = np.concatenate(list(table.parts(chosen)))
    return dict(zip(chosen, rows.T.copy(), strict=True))
