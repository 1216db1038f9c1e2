"""Malformed files of every format of meshes: the stage `points` refuses each with one line that says what is wrong."""

import struct

import pytest

from pipeline.data.own_mesh import READERS

TRIANGLE = ((0, 0, 0), (1, 0, 0), (0, 1, 0))
VERTICES = "".join(f"{x} {y} {z}\n" for x, y, z in TRIANGLE)


def stl(*triangles):
    facets = (
        "facet normal 0 0 1\nouter loop\n"
        + "".join(f"vertex {x} {y} {z}\n" for x, y, z in corners)
        + "endloop\nendfacet\n"
        for corners in triangles
    )
    return f"solid s\n{''.join(facets)}endsolid s\n"


STL = stl(TRIANGLE)
# It says that it holds two triangles, and holds one.
CUT = b"\0" * 80 + struct.pack("<I12fH", 2, 0, 0, 1, *(float(x) for corner in TRIANGLE for x in corner), 0)
OBJ = "".join(f"v {line}\n" for line in VERTICES.splitlines())
PLY = (
    "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
)
VTK = f"# vtk DataFile Version 3.0\nt\nASCII\nDATASET UNSTRUCTURED_GRID\nPOINTS 3 float\n{VERTICES}"
MSH = (
    "$MeshFormat\n2.2 0 8\n$EndMeshFormat\n$Nodes\n3\n1 0 0 0\n2 1 0 0\n3 0 1 0\n$EndNodes\n$Elements\n1\n{}\n"
    "$EndElements\n"
)
TRIANGLE_OF_MSH = "1 2 2 0 1 1 2 3"


def cells(of_vtk, kind=5):
    return f"CELLS 1 {len(of_vtk.split())}\n{of_vtk}\nCELL_TYPES 1\n{kind}\n"


NOT_FINITE = "vertex 2: wanted finite coordinates"
UNREADABLE = "cannot be read as a mesh ("
SHORT = "it is cut short, or not of the format that its ending tells"
WORD = "could not convert string to float: "
FLAT = "the mesh cannot be used: 1 triangles without area (the first: 0 at "

MALFORMED = {
    ".stl": [
        (STL.replace("vertex 1 0", "vertex nan 0"), NOT_FINITE),
        (STL.replace("vertex 1 0", "vertex one 0"), WORD + "'one'"),
        (STL.replace("vertex 1 0 0", "vertex 1 0"), WORD),
        (stl(TRIANGLE[:2]), SHORT),
        (stl(TRIANGLE, TRIANGLE)[:-60], UNREADABLE),
        (stl((TRIANGLE[0], TRIANGLE[1], TRIANGLE[1])), FLAT),
        (stl(), "holds no triangles"),
        (CUT, "holds no triangles"),
    ],
    ".obj": [
        (OBJ + "f 1 2 9\n", "triangle 1: names vertex 9 of 3"),
        (OBJ + "f 0 1 2\n", "triangle 1: names vertex 0 of 3"),
        (OBJ.replace("v 1 0", "v one 0") + "f 1 2 3\n", WORD + "'one'"),
        ("v 0 0\nv 1 0\nv 0 1\nf 1 2 3\n", "holds vertices of shape (3, 2); wanted three coordinates"),
        (OBJ + "v 1 1 0\nf 1 2 4 3\n", "holds cells of kind quad; wanted triangles"),
        (OBJ.replace("v 1 0", "v inf 0") + "f 1 2 3\n", NOT_FINITE),
        (OBJ, "holds no triangles"),
        (OBJ + "f 1 2 2\n", FLAT),
    ],
    ".ply": [
        (PLY + VERTICES[:12] + "3 0 1 2\n", UNREADABLE),
        (PLY + VERTICES, SHORT),
        (PLY + VERTICES + "3 0 1 7\n", "triangle 1: names vertex 8 of 3"),
        (PLY + VERTICES + "3 0 1 -1\n", "triangle 1: names vertex 0 of 3"),
        (PLY.replace("end_header\n", "") + VERTICES + "3 0 1 2\n", UNREADABLE + "Expected `element vertex`"),
        (PLY + VERTICES.replace("1 0 0", "nan 0 0") + "3 0 1 2\n", NOT_FINITE),
        (PLY.replace("property float z\n", "") + VERTICES + "3 0 1 2\n", UNREADABLE),
        (PLY.replace("ascii", "morse") + VERTICES + "3 0 1 2\n", SHORT),
    ],
    ".vtk": [
        (VTK + cells("3 0 1 5"), "triangle 1: names vertex 6 of 3"),
        (VTK[:-6] + cells("3 0 1 2"), UNREADABLE),
        (VTK + cells("3 0 1 2", kind=999), "cells that meshio cannot handle (types 999)"),
        (VTK + cells("4 0 1 2"), SHORT),
        (VTK + "CELLS 1 4\n3 0 1 2\n", "Required section CELL_TYPES not found"),
        (VTK.replace("1 0 0", "inf 0 0") + cells("3 0 1 2"), NOT_FINITE),
        (VTK.replace("POINTS 3", "POINTS 4") + "0 0 1\n" + cells("4 0 1 2 3", kind=10), "cells of kind tetra"),
        (VTK + cells("3 0 1 1"), FLAT),
    ],
    ".msh": [
        (MSH.format("1 2 2 0 1 1 2 9"), UNREADABLE + "index 8 is out of bounds"),
        (MSH.format("1 999 2 0 1 1 2 3"), "it holds 999, which its format does not know"),
        (MSH.replace("2.2", "9.9").format(TRIANGLE_OF_MSH), "Need mesh format in"),
        (MSH.replace("2 1 0 0", "2 one 0 0").format(TRIANGLE_OF_MSH), UNREADABLE),
        (MSH.replace("3 0 1 0\n", "").format(TRIANGLE_OF_MSH), UNREADABLE),
        (MSH.replace("2 1 0 0", "2 nan 0 0").format(TRIANGLE_OF_MSH), NOT_FINITE),
        (MSH.format("1 2 2 0 1 1 2 2"), FLAT),
    ],
}  # fmt: skip


def test_every_format_has_malformed_files():
    assert set(MALFORMED) == set(READERS)


@pytest.mark.parametrize(
    ("ending", "content", "words"),
    [(ending, content, words) for ending, rows in MALFORMED.items() for content, words in rows],
    ids=[f"{ending}-{number}" for ending, rows in MALFORMED.items() for number in range(len(rows))],
)
def test_a_malformed_mesh_is_one_line_with_the_file_and_what_is_wrong(
    bench, monkeypatch, capsys, ending, content, words
):
    monkeypatch.chdir(bench.folder)
    path = bench.folder / f"bad{ending}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    matrix = {
        "points": {"name": "mesh", "path": path.name},
        "kernel": {"name": "laplace_single_layer"},
        "task": "capacitance",
    }
    bench.write_specs({"study": "own", "matrices": {"own": matrix}})
    assert bench.run("points", output="points/own", spec=bench.folder / "spec/points/own.json") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: matrices.own.points: {path.name}: ")
    assert words in line
    assert not bench.manifest("points/own").exists()
