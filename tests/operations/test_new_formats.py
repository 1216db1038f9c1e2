"""Every kind of file that `new` takes: the study that it writes is right as it stands, as `check` sees it."""

import json

import meshio
import numpy as np
import onnx
import pytest
from idx_files import idx_files
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from table_files import feature, netcdf, npy, npz, raster, table_of

from pipeline.__main__ import main
from pipeline.data.meshes import sphere_mesh
from pipeline.operations.new import WRITERS

RNG = np.random.default_rng(0)
N = 37
COLUMNS = {"lon": RNG.uniform(5, 10, N), "lat": RNG.uniform(45, 48, N), "mm": RNG.standard_normal(N)}
ROWS = np.stack(list(COLUMNS.values()), axis=1)
LABELS = np.arange(22) % 3
PICTURES = {
    "train_images": ("nhw", RNG.integers(0, 256, (22, 9, 7), np.uint8)), "train_labels": ("n", LABELS),
    "test_images": ("mhw", RNG.integers(0, 256, (5, 9, 7), np.uint8)), "test_labels": ("m", LABELS[:5]),
}  # fmt: skip
ARRAYS = {name: values for name, (_, values) in PICTURES.items()}


def csv(path):
    path.write_text("\n".join(["lon,lat,mm", *(",".join(map(repr, row)) for row in ROWS.tolist())]) + "\n")


def geojson(path):
    features = [feature(*row) for row in ROWS.tolist()]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def mesh(path):
    vertices, triangles = sphere_mesh(1)
    options = {"file_format": "gmsh22"} if path.suffix == ".msh" else {}
    meshio.Mesh(vertices, [("triangle", triangles)]).write(path, **options)


def network(path):
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 17))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 5))],
        [numpy_helper.from_array(np.ones((17, 5), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def folder_of_images(path):
    for part, count in (("train", 11), ("test", 2)):
        for kind in ("cat", "dog"):
            (path / part / kind).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (9, 11), 9 * i).save(path / part / kind / f"{i}.png")


#: What writes a file of each kind, by its name.
FILES = {
    "own.csv": csv,
    "own.npy": npy(ROWS),
    "own.npz": npz(**COLUMNS),
    "own.parquet": table_of(**COLUMNS),
    "own.nc": netcdf(**{name: ("n", column) for name, column in COLUMNS.items()}),
    "own.geojson": geojson,
    "own.tif": raster(crs="EPSG:4326"),
    "own.stl": mesh,
    "own.obj": mesh,
    "own.ply": mesh,
    "own.vtk": mesh,
    "own.msh": mesh,
    "own.onnx": network,
    "images.npz": npz(**ARRAYS),
    "own.h5": netcdf(**PICTURES),
    "own.hdf5": netcdf(**PICTURES),
    "my images": folder_of_images,
    "my letters": lambda path: idx_files(path, ARRAYS),
}


def test_every_ending_that_new_takes_has_a_file():
    assert set(WRITERS) == {f".{name.rpartition('.')[2]}" for name in FILES if "." in name}


@pytest.mark.parametrize("name", FILES)
def test_the_study_that_is_written_for_a_file_names_it_and_is_right_as_it_stands(checkout, capsys, name):
    FILES[name](checkout / name)
    capsys.readouterr()  # some libraries warn of what they write
    assert main(["new", "mine", "--from", name]) == 0
    assert main(["check", "mine"]) == 0
    said = capsys.readouterr()
    assert said.out.endswith("all right\n")
    assert said.err == ""
    assert json.dumps(name) in (checkout / "config/mine.yaml").read_text()


def test_idx_files_become_a_study_with_what_was_seen_and_a_missing_one_is_named(checkout, capsys):
    idx_files(checkout / "letters", ARRAYS)
    assert main(["new", "mine", "--from", "letters"]) == 0
    told = capsys.readouterr().out
    assert "letters: 22 images of 3 classes, 7 to 8 of each, to train on, and 5 to test on." in told
    assert "Each: 7 x 9 pixels, gray." in told
    (checkout / "letters/t10k-labels-idx1-ubyte").unlink()
    assert main(["new", "other", "--from", "letters"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "wanted t10k-labels-idx1-ubyte (or t10k-labels-idx1-ubyte.gz) in letters, found neither" in line
