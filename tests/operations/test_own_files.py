"""Own files against each other: `check` refuses in one line what a stage would stumble over."""

from pathlib import Path

import meshio
import netCDF4
import numpy as np
import onnx
import pyarrow
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from pyarrow import parquet

from pipeline.__main__ import main
from pipeline.data.meshes import sphere_mesh
from pipeline.operations import paths

SOLVE = {
    "points": {"name": "uniform_square", "n": 50},
    "kernel": {"name": "matern", "length_scale": 0.1},
    "nugget": 0.1,
    "task": "solve",
}
KRIGING = {
    "points": {"name": "file", "path": "own.csv", "coordinates": ["x", "y"], "value": "mm"},
    "kernel": {"name": "matern", "length_scale": 1.0},
    "nugget": 0.1,
    "task": "kriging",
}


@pytest.fixture
def check(checkout, capsys):
    """A function that checks a study: its exit code, and the line that it ends with."""
    rng = np.random.default_rng(0)
    rows = "".join(f"{x},{y},{v}\n" for x, y, v in rng.random((100, 3)))
    Path("own.csv").write_text(f"x,y,mm\n{rows}")

    def check(**study):
        Path("mine.yaml").write_text(yaml.safe_dump({"study": "mine", **study}))
        code = main(["check", "mine.yaml"])
        told = capsys.readouterr()
        lines = (told.err if code else told.out).splitlines()
        assert len(lines) == 1
        return code, lines[0]

    return check


def matrix(section, **more):
    return {"matrices": {"own": section | more}}


def with_points(**points):
    return matrix(KRIGING, points=KRIGING["points"] | points)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones(49), "holds float64 of shape (49,); wanted real numbers of shape (50,)"),
        (np.ones((50, 0)), "wanted real numbers of shape (50,) or (50, m)"),
        (np.ones((50, 1, 1)), "wanted real numbers of shape (50,) or (50, m)"),
        (np.float64(1.0), "holds float64 of shape ()"),
        (np.ones(50, complex), "holds complex128"),
        (np.ones(50, bool), "holds bool"),
        (np.full(50, "one"), "holds <U3"),
        (np.array([None] * 50), "not a readable array (it holds objects of Python)"),
        (np.r_[np.ones(6), np.nan, np.ones(43)], "row 7 holds NaN or infinity"),
        (np.r_[np.ones(49), np.inf].astype(np.float16), "row 50 holds NaN or infinity"),
        (np.r_[np.ones(49), -1e300], "row 50 holds -1e+300; wanted numbers of size 1e+100 at most"),
    ],
)
@pytest.mark.parametrize(("key", "task"), [("right_hand_side", "solve"), ("vectors", "product")])
def test_vectors_are_looked_at_before_anything_runs(check, key, task, array, words):
    np.save("b.npy", array, allow_pickle=True)
    code, line = check(**matrix(SOLVE, task=task, **{key: "b.npy"}))
    assert code == 2
    assert line.startswith(f"error: matrices.own: {key}: b.npy: ")
    assert words in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "b.npy: is empty"),
        (b"PK\x03\x04", "b.npy: holds several arrays"),
        (b"1 2 3", "b.npy: not a readable array (it begins with b'1 2 3')"),
        (b"\x93NUMPY\x01\x00", "b.npy: not a readable array"),
    ],
)
def test_vectors_that_are_no_array_are_one_line(check, content, words):
    Path("b.npy").write_bytes(content)
    code, line = check(**matrix(SOLVE, right_hand_side="b.npy"))
    assert code == 2
    assert words in line


@pytest.mark.parametrize("names", ["lat,lon", "Latitude [deg],x", "y,lng"])
def test_a_latitude_that_is_given_as_the_longitude_is_refused(check, names):
    Path("swapped.csv").write_text(
        f"{names},mm\n" + "".join(f"{45 + i / 9},{i / 7},{i}\n" for i in range(90))
    )
    columns = names.split(",")
    own = {"path": "swapped.csv", "crs": "lonlat"}
    code, line = check(**with_points(**own, coordinates=columns))
    assert code == 2
    assert f"write coordinates: [{columns[1]}, {columns[0]}]" in line
    assert check(**with_points(**own, coordinates=columns[::-1]))[0] == 0
    asked = with_points(**own, coordinates=columns[::-1])
    asked["matrices"]["own"]["predict"] = {"path": "swapped.csv", "coordinates": columns}
    code, line = check(**asked)
    assert (code, "write predict.coordinates: [" in line) == (2, True)


def test_vectors_have_a_row_for_every_point_that_is_not_held_out(check):
    section = KRIGING | {"task": "solve", "right_hand_side": "b.npy"}
    np.save("b.npy", np.ones(100))
    assert "of shape (90,)" in check(**matrix(section))[1]
    np.save("b.npy", np.ones((90, 2)))
    assert check(**matrix(section))[0] == 0
    section["points"] = section["points"] | {"n": 50, "held_out": 0}
    np.save("b.npy", np.ones(50))
    assert check(**matrix(section))[0] == 0


@pytest.mark.parametrize("ending", [".npy", ".npz", ".parquet", ".nc"])
def test_rows_of_a_large_file_are_known_from_its_head(check, monkeypatch, ending):
    monkeypatch.setattr(paths, "READ_UP_TO", 10)
    rows = np.random.default_rng(0).random((100, 2))
    path, names = Path(f"large{ending}"), ["x", "y"]
    if ending == ".npy":
        np.save(path, rows)
        names = ["0", "1"]
    elif ending == ".npz":
        np.savez(path, x=rows[:, 0], y=rows[:, 1])
    elif ending == ".parquet":
        parquet.write_table(pyarrow.table({"x": rows[:, 0], "y": rows[:, 1]}), path)
    else:
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("place", 100)
            for name, column in zip(names, rows.T, strict=True):
                file.createVariable(name, "f8", ("place",))[:] = column
    np.save("b.npy", np.ones(99))
    points = {"name": "file", "path": str(path), "coordinates": names}
    code, line = check(**matrix(SOLVE, points=points, right_hand_side="b.npy"))
    assert code == 2
    assert "of shape (99,); wanted real numbers of shape (100,)" in line


def test_a_mesh_too_coarse_for_its_wave_is_refused_before_anything_runs(check):
    vertices, triangles = sphere_mesh(1)
    meshio.Mesh(vertices, [("triangle", triangles)]).write("ball.stl")
    section = {"points": {"name": "mesh", "path": "ball.stl"}, "task": "scattering"}
    section["kernel"] = {"name": "helmholtz", "wavenumber": 12}
    code, line = check(**matrix(section))
    assert code == 2
    assert line.startswith("error: matrices.own.points: triangle ")
    assert (
        "at least 3 triangles for each wavelength are needed; refine the mesh, or lower the wavenumber"
        in line
    )


@pytest.mark.parametrize("spacing", [1e-9, 1e-300, 1e-90])
def test_a_grid_of_too_many_places_is_refused_before_the_fit(check, spacing):
    code, line = check(**matrix(KRIGING, predict={"grid": {"spacing": spacing}}))
    assert code == 2
    assert "spacing" in line


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (
            SOLVE | {"task": "sample", "samples": 10**9},
            "samples: 1,000,000,000 samples of 50 points are 5e+10",
        ),
        (KRIGING | {"points": KRIGING["points"] | {"held_out": 0.999999}}, "holds out 100 and leaves 0"),
        (KRIGING | {"points": KRIGING["points"] | {"held_out": 0.001}}, "holds out 0 and leaves 100"),
        (
            KRIGING | {"points": KRIGING["points"] | {"held_out": 0.95}, "fit": {}},
            "fit: 5 points are left to fit to; wanted 10 at least",
        ),
        (KRIGING | {"points": KRIGING["points"] | {"n": 101}}, "n: wanted 101 points of"),
        (KRIGING | {"predict": {"path": "own.npy"}}, "predict: own.npy: has no column 'x'"),
        (
            KRIGING | {"predict": {"path": "own.npy", "coordinates": [0]}},
            "predict: own.npy: 1 coordinates (0)",
        ),
        (
            KRIGING | {"predict": {"path": "own.csv", "format": "tif"}},
            "predict: a GeoTIFF needs a regular grid",
        ),
        (
            SOLVE
            | KRIGING
            | {
                "points": KRIGING["points"] | {"coordinates": ["x", "y", "z"], "path": "three.csv"},
                "predict": {"grid": {"spacing": 0.5}, "format": "tif"},
            },
            "predict: a GeoTIFF needs a regular grid",
        ),
        (KRIGING | {"predict": {"path": "bad.csv"}}, "predict: bad.csv: row 1 (line 2), column y"),
    ],
)
def test_what_is_asked_of_points_is_compared_with_them(check, section, words):
    np.save("own.npy", np.ones((3, 2)))
    Path("bad.csv").write_text("x,y\n1,none\n")
    Path("three.csv").write_text("x,y,z,mm\n" + "".join(f"{i},{i * i},{i % 3},{i}\n" for i in range(30)))
    code, line = check(**matrix(section))
    assert code == 2
    assert line.startswith("error: matrices.own")
    assert words in line


def test_a_kernel_is_tried_on_the_points(check, monkeypatch, checkout):
    monkeypatch.syspath_prepend(checkout)
    Path("kernel_of_a_check.py").write_text("def bump(x, y): return {}\n")
    kernel = {"name": "custom", "path": "kernel_of_a_check:bump"}
    code, line = check(**matrix(SOLVE, kernel=kernel))
    assert code == 2
    assert line.startswith("error: matrices.own: kernel kernel_of_a_check:bump: returned a dict")
    three = {"name": "matern", "length_scale": [1.0, 1.0, 1.0]}
    code, line = check(**matrix(SOLVE, kernel=three))
    assert code == 2
    assert line.startswith("error: matrices.own: kernel: ")


@pytest.fixture
def network(checkout):
    """A network of 2 x 8 x 8 inputs and 3 outputs, in a file."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(rng.standard_normal((3, 2, 3, 3)).astype(np.float32), "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "own.onnx")


X = np.zeros((4, 2, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("inputs", "labels", "words"),
    [
        (X, None, "all right"),
        (X, np.array([0, 1, 2, 2]), "all right"),
        (X[:, 0], None, "x.npy: holds samples of shape (8, 8); wanted (2, any, any), which own.onnx takes"),
        (X[:, :1], None, "x.npy: holds samples of shape (1, 8, 8); wanted (2, any, any)"),
        (X.astype(complex), None, "x.npy: holds complex128"),
        (X[:0], None, "x.npy: holds float32 of shape (0, 2, 8, 8)"),
        (np.full_like(X, np.nan), None, "x.npy: holds NaN or infinity"),
        (X, np.array([0, 1, 2, 3]), "y.npy: class 3 is none of the network's 3 outputs"),
        (X, np.full(4, 2**63, np.uint64), "y.npy: holds class 9223372036854775808; wanted classes"),
        (X, np.full(4, 2**63, ">u8"), "y.npy: holds class 9223372036854775808; wanted classes"),
        (X.astype(">f4"), np.array([0, 1, 2, 1], ">u8"), "all right"),
        (X.astype(np.longdouble), np.array([0, 1, 2, 1], ">i2"), "all right"),
        (X.astype(">i2"), None, "all right"),
        (np.full(X.shape, 1e300, ">f8"), None, "x.npy: holds NaN or infinity"),
        (X, np.array([0, 1, 2, -1]), "y.npy: class -1 is none"),
        (X, np.array([0, 1, 2]), "y.npy: holds classes of shape (3,); wanted one for each of 4"),
        (X, np.eye(4, 3, dtype=int), "y.npy: holds classes of shape (4, 3)"),
        (X, np.array([0.0, 1.0, 2.0, 1.5]), "y.npy: holds float64; wanted classes as whole numbers"),
        (X, np.array([True, False, True, True]), "y.npy: holds bool; wanted classes"),
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_samples_and_labels_are_compared_with_the_network(
    check, network, monkeypatch, inputs, labels, words, large
):
    if large:
        monkeypatch.setattr(
            "pipeline.operations.own_inputs.is_small", lambda name: not name.endswith(".onnx")
        )
    np.save("x.npy", inputs)
    own = {"path": "own.onnx", "inputs": "x.npy"}
    if labels is not None:
        np.save("y.npy", labels)
        own["labels"] = "y.npy"
    code, line = check(precision={"networks": {"own": own}})
    assert code == (0 if words == "all right" else 2)
    assert words in line


def test_an_empty_network_says_that_it_is_empty(check):
    Path("own.onnx").touch()
    np.save("x.npy", X)
    code, line = check(precision={"networks": {"own": {"path": "own.onnx", "inputs": "x.npy"}}})
    assert code == 2
    assert line == (
        "error: precision.networks.own: own.onnx: is empty: a file of 0 bytes; export the network again"
    )


def test_a_file_may_ask_for_more_places_than_a_grid(check, monkeypatch):
    monkeypatch.setattr("pipeline.data.asked_places.MOST_PLACES", 50)
    assert check(**matrix(KRIGING, predict={"path": "own.csv"}))[0] == 0
    code, line = check(**matrix(KRIGING, predict={"grid": {"spacing": 0.01}}))
    assert code == 2
    assert "wanted at most 50" in line
