"""A study of one malformed file for every format that a study can name."""

import copy
from pathlib import Path

from pipeline.data.own_mesh import READERS
from pipeline.data.tables import FORMATS

CSV = b"lon,lat,mm\n1,2,3\n1,2,none\n"
GEOJSON = b'{"features": [{"type": "Feature", "geometry": null}]}'
IMAGES = {"train_samples": 1, "validation_samples": 1}
NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def points(ending, content, words):
    section = {
        "points": {"name": "file", "path": f"own{ending}", "value": "mm"},
        "kernel": {"name": "matern", "length_scale": 1.0},
        "nugget": 0.1,
        "task": "kriging",
    }
    return {"matrices": {"own": section}}, {f"own{ending}": content}, "matrices.own.points: own" + words


def mesh(ending, content, words):
    section = {
        "points": {"name": "mesh", "path": f"own{ending}"},
        "kernel": {"name": "laplace_single_layer"},
        "task": "capacitance",
    }
    return {"matrices": {"own": section}}, {f"own{ending}": content}, "matrices.own.points: own" + words


def images(dataset, files, words):
    run = {"optimizer": {"name": "sgd", "lr": 0.1}, "batch_size": 1, "epochs": 1}
    study = {
        "dataset": dataset | IMAGES,
        "model": {"name": "mlp", "hidden": [4]},
        "training": {"runs": {"a": run}},
    }
    return study, files, "dataset: " + words


#: For each format: a study without its name, the files beside it, and the error for the malformed file.
STUDIES = {
    ".csv": points(".csv", CSV, ".csv: row 2 (line 3), column mm: wanted a finite number, found 'none'"),
    ".npy": points(".npy", b"\x93NUMPY", ".npy: not an array that numpy.save wrote"),
    ".npz": points(".npz", b"PK\x03\x04", ".npz: not a file that numpy.savez wrote"),
    ".parquet": points(".parquet", b"PAR1", ".parquet: cannot be read"),
    ".nc": points(".nc", b"CDF\x01", ".nc: cannot be read"),
    ".geojson": points(".geojson", GEOJSON, ".geojson: row 1, geometry: wanted a Point, found None"),
    ".tif": points(".tif", b"II*\0", ".tif: cannot be read"),
    ".stl": mesh(".stl", b"solid a\nfacet\n", ".stl: line 2: wanted 'facet normal' and three numbers"),
    ".obj": mesh(".obj", b"v 0 0 0\nf 1 2\n", ".obj: line 2: wanted 'f' and the numbers of three vertices"),
    ".ply": mesh(".ply", b"ply\n", ".ply: its header has no 'end_header'"),
    ".vtk": mesh(".vtk", b"# vtk\n", ".vtk: cannot be read as a mesh"),
    ".msh": mesh(".msh", b"$Nodes\n", ".msh: wanted a Gmsh file, which begins with $MeshFormat"),
    "arrays .npz": images({"name": "arrays", "path": "own.npz"}, {"own.npz": b"PK"}, "own.npz: not a readable .npz"),
    "arrays .h5": images({"name": "arrays", "path": "own.h5"}, {"own.h5": b"\x89HDF"}, "own.h5: not a readable .h5"),
    "idx": images(
        {"name": "idx", "directory": "own"}, {f"own/{name}": b"\0\0\x08" for name in NAMES},
        "own/train-images-idx3-ubyte: wanted an IDX file of unsigned bytes in 3 dimensions",
    ),
    "folder": images(
        {"name": "folder", "directory": "own", "image_size": 4, "channels": 1},
        {f"own/{part}/{kind}/1.png": b"\x89PNG" for part in ("train", "test") for kind in "ab"},
        "dataset.directory: own/train/a/1.png is not a readable image",
    ),
    ".onnx": (
        {"precision": {"networks": {"own": {"path": "own.onnx", "inputs": "own.npy"}}}},
        {"own.onnx": b"\xff" * 99, "own.npy": b""}, "precision.networks.own: own.onnx: not a readable ONNX file",
    ),
}  # fmt: skip


def write(folder: Path, kind: str) -> tuple[dict, str]:
    """Write the files of a kind into a folder; return the study and the beginning of the error."""
    assert {*FORMATS, *READERS} <= set(STUDIES)
    study, files, words = STUDIES[kind]
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return {"study": "small", **copy.deepcopy(study)}, f"error: {words}"
