"""Files of tables for tests, right and wrong ones: functions return a file's content or a function that writes it."""

import io
import json
import warnings
import zipfile

import netCDF4
import numpy as np
import pyarrow as pa
import rasterio
from pyarrow import parquet


def feature(lon, lat, mm):
    return {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [lon, lat]},
        "properties": {"name": "here", "mm": mm},
    }


def geojson_with(**changes):
    good = feature(1.0, 2.0, 3.0)
    return json.dumps({"type": "FeatureCollection", "features": [good, good | changes]}).encode()


def npy(array, *, cut=0, head=b""):
    def make(path):
        file = io.BytesIO()
        np.save(file, array, allow_pickle=True)
        content = head + file.getvalue()
        path.write_bytes(content[: len(content) - cut])

    return make


def header(shape, kind="<f8", content=b""):
    """Return the start of a .npy file whose header names the given shape."""
    told = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    told += b" " * (-(len(told) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(told).to_bytes(2, "little") + told + content


def archive(*members):
    def make(path):
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
            warnings.simplefilter("ignore", UserWarning)  # about a name that occurs twice
            for name, content in members:
                file.writestr(f"{name}.npy", content)

    return make


def encrypted(path):
    """Mark the entry of an archive as encrypted, in both places that say so."""
    archive(("lon", header((1,), content=bytes(8))))(path)
    content = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.index(mark) + flags] |= 1
    path.write_bytes(content)


def npz(cut=0, **arrays):
    def make(path):
        file = io.BytesIO()
        np.savez(file, **arrays)
        content = file.getvalue()
        path.write_bytes(content[: len(content) - cut])

    return make


def table_of(cut=0, **columns):
    def make(path):
        parquet.write_table(pa.table(columns), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])

    return make


def netcdf(cut=0, damage=False, **variables):
    def make(path):
        with netCDF4.Dataset(path, "w") as file:
            for name, (dimensions, values, *fill) in variables.items():
                values = np.asarray(values) if not isinstance(values, np.ma.MaskedArray) else values
                for dimension, size in zip(dimensions, values.shape, strict=True):
                    if dimension not in file.dimensions:
                        file.createDimension(dimension, size)
                kind = str if values.dtype.kind == "U" else values.dtype
                file.createVariable(
                    name, kind, tuple(dimensions), **dict(zip(("fill_value",), fill, strict=False))
                )[...] = values.astype(object) if kind is str else values
        content = bytearray(path.read_bytes())
        if damage:
            content[8:400] = b"\xff" * 392
        path.write_bytes(content[: len(content) - cut])

    return make


def raster(cut=0, fill=1.0, turned=False, bands=1, **options):
    def make(path):
        cells = np.zeros((3, 4))
        cells[1, 1] = fill
        grid = rasterio.Affine(1, 0.2 * turned, 5, 0, -1, 48)
        options.setdefault("dtype", "float64")
        with rasterio.open(
            path, "w", driver="GTiff", width=4, height=3, count=max(bands, 1), transform=grid, **options
        ) as file:
            file.write(cells.astype(options["dtype"]), 1)
        path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])

    return make
