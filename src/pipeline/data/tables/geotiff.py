"""GeoTIFF files: every cell of the raster is a row."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.data.tables.table import ROWS_AT_ONCE, OpenTable, Rows, unreadable
from pipeline.errors import ConfigError


def open_geotiff(path: Path) -> OpenTable:
    """Open a raster: columns `x` and `y`, the centers of its cells, and its bands, called 1, 2, and so on."""
    import rasterio
    from rasterio.windows import Window

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(path, driver="GTiff") as file:
                height, width, n_bands = file.height, file.width, file.count
                grid, system = file.transform, file.crs
                kinds = set(file.dtypes)
                units = {str(i): unit for i, unit in enumerate(file.units, 1) if unit}
    except rasterio.errors.NotGeoreferencedWarning:
        raise ConfigError(
            f"{path}: does not give the coordinates of its cells; write it again as GeoTIFF"
        ) from None
    except rasterio.errors.RasterioError as error:
        raise unreadable(path, error, "write it again as GeoTIFF") from None
    if any(kind.startswith("complex") for kind in kinds):
        raise ConfigError(f"{path}: holds {', '.join(sorted(kinds))}; wanted real numbers")
    if grid.b or grid.d:
        raise ConfigError(f"{path}: its grid is rotated; wanted one whose rows run from west to east")

    def read(names: Sequence[str]) -> Iterator[Rows]:
        x = grid.c + grid.a * (np.arange(width) + 0.5)
        step = max(1, ROWS_AT_ONCE // width)
        try:
            with rasterio.open(path, driver="GTiff") as file:
                for first in range(0, height, step):
                    n = min(step, height - first)
                    y = grid.f + grid.e * (np.arange(first, first + n) + 0.5)
                    columns = {"x": np.tile(x, n), "y": np.repeat(y, width)}
                    for name in names:
                        if name not in columns:
                            band = file.read(int(name), window=Window(0, first, width, n), masked=True)
                            columns[name] = np.ma.filled(band.astype(np.float64), np.nan).ravel()
                    yield np.stack([columns[name] for name in names], axis=1)
        except rasterio.errors.RasterioError as error:
            raise unreadable(path, error, "write it again as GeoTIFF") from None

    code = None if system is None else system.to_epsg()
    return OpenTable(
        path,
        ("x", "y", *map(str, range(1, n_bands + 1))),
        read,
        units=units,
        axes=lambda names: {"y": height, "x": width},
        crs=f"EPSG:{code}" if code else "",
    )
