"""Meshes of one's own: every format, from the file to the page, and what cannot be computed on."""

import re

import meshio
import numpy as np
import pytest

from pipeline.artifacts.store import Artifact
from pipeline.config.loading import validate
from pipeline.data.meshes import sphere_mesh
from pipeline.data.own_mesh import READERS, load_own_mesh
from pipeline.errors import ConfigError

SECTION = {
    "kernel": {"name": "laplace_single_layer"},
    "task": "capacitance",
    "compress": {"tolerance": 1e-5},
}


@pytest.fixture(scope="module")
def sphere():
    return sphere_mesh(2)


def write(path, vertices, cells):
    binary = {"binary": False} if path.suffix in (".ply", ".vtk", ".msh") else {}
    options = {"file_format": "gmsh22"} if path.suffix == ".msh" else {}
    meshio.Mesh(vertices, cells).write(path, **options, **binary)


@pytest.mark.parametrize("ending", READERS)
def test_every_format_gives_the_triangles_that_were_written(tmp_path, sphere, ending):
    vertices, triangles = sphere
    path = tmp_path / f"ball{ending}"
    write(path, vertices, [("triangle", triangles)])
    found, corners = load_own_mesh(path)
    # Text formats and STL keep seven digits or more.
    np.testing.assert_allclose(found[corners], vertices[triangles], atol=1e-6)


def test_the_capacitance_of_a_mesh_of_stl_is_that_of_the_built_in_one(bench, sphere, monkeypatch):
    monkeypatch.chdir(bench.folder)
    write(bench.folder / "ball.stl", sphere[0], [("triangle", sphere[1])])
    found = {}
    for name, points in (
        ("own", {"name": "mesh", "path": "ball.stl"}),
        ("ours", {"name": "sphere", "refinements": 2}),
    ):
        bench.write_specs({"study": name, "matrices": {name: SECTION | {"points": points}}})
        inputs = {}
        for stage, made in (("points", "points"), ("compress", "operator"), ("solve", "")):
            spec = bench.folder / f"spec/{stage}/{name}.json"
            assert bench.run(stage, output=f"{stage}/{name}", spec=spec, **inputs) == 0
            inputs[made] = bench.manifest(f"{stage}/{name}")
        found[name] = Artifact.open(bench.manifest(f"solve/{name}"), "solution").facts["result"][
            "capacitance"
        ]
        if name == "own":
            spec = bench.folder / "spec/report.json"
            assert bench.run("report", spec=spec, benchmarks=bench.folder / "benchmarks") == 0
            assert (
                "The capacitance of the mesh comes out as" in (bench.folder / "report/index.html").read_text()
            )
    # STL keeps single precision; tolerances of compression are 1e-5.
    assert found["own"] == pytest.approx(found["ours"], rel=1e-4)


def test_a_mesh_is_an_input_by_its_key():
    study = validate(
        {"study": "own", "matrices": {"a": SECTION | {"points": {"name": "mesh", "path": "a.stl"}}}}
    )
    assert study.files() == {"matrices.a.points.path": "a.stl"}


SQUARE = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])


@pytest.mark.parametrize("content", [b"", b"junk\n", b"\xff" * 90, b"PK\x03\x04" + b"\0" * 30], ids=range(4))
@pytest.mark.parametrize("ending", READERS)
def test_what_is_no_mesh_is_one_line(tmp_path, ending, content, capsys):
    path = tmp_path / f"ball{ending}"
    path.write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"cannot be read as a mesh|holds no triangles|wanted (text|a Gmsh file)"
    ) as error:
        load_own_mesh(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "cells", "words"),
    [
        ("a.vtk", [("quad", [[0, 1, 2, 3]])], "holds cells of kind quad; wanted triangles"),
        ("a.vtk", [("line", [[0, 1]])], "holds no triangles"),
        ("a.step", None, "wanted a mesh that ends in .stl"),
        ("gone.stl", None, "there is no such file"),
    ],
)
def test_cells_that_are_no_triangles_are_one_line(tmp_path, name, cells, words):
    if cells is not None:
        write(tmp_path / name, SQUARE, cells)
    with pytest.raises(ConfigError, match=words):
        load_own_mesh(tmp_path / name)


def test_a_mesh_with_a_defect_is_diagnosed_before_it_is_computed_on(bench, monkeypatch, capsys):
    monkeypatch.chdir(bench.folder)
    write(bench.folder / "bad.vtk", SQUARE, [("triangle", [[0, 1, 2], [0, 1, 1]])])
    bench.write_specs(
        {"study": "own", "matrices": {"own": SECTION | {"points": {"name": "mesh", "path": "bad.vtk"}}}}
    )
    spec = bench.folder / "spec/points/own.json"
    assert bench.run("points", output="points/own", spec=spec) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.match(r"error: matrices.own.points: bad.vtk: ", line), line
