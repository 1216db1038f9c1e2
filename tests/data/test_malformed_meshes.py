"""Twenty malformed files of every format of meshes: each is one line with the file, the place and what is wrong."""

import gzip
import struct

import numpy as np
import pytest

from pipeline.data.mesh_text import CHECKS
from pipeline.data.own_mesh import READERS, load_usable_mesh
from pipeline.errors import ConfigError

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


def binary_stl(n, *triangles):
    records = (
        struct.pack("<12fH", 0, 0, 1, *(float(x) for corner in corners for x in corner), 0)
        for corners in triangles
    )
    return bytes(80) + struct.pack("<I", n) + b"".join(records)


def obj(faces, vertices=TRIANGLE):
    return "".join(f"v {x} {y} {z}\n" for x, y, z in vertices) + faces


def ply(rows, *, vertices=VERTICES, kind="ascii"):
    n_vertices, n_faces = vertices.count("\n"), rows.count("\n")
    return (
        f"ply\nformat {kind} 1.0\nelement vertex {n_vertices}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {n_faces}\nproperty list uchar int vertex_indices\nend_header\n{vertices}{rows}"
    )


def vtk(cells, kind=5, *, vertices=VERTICES):
    head = f"# vtk DataFile Version 3.0\nt\nASCII\nDATASET UNSTRUCTURED_GRID\nPOINTS {vertices.count(chr(10))} float\n"
    rows = cells.split("\n")
    n_numbers = sum(len(row.split()) for row in rows)
    kinds = "\n".join([str(kind)] * len(rows))
    return f"{head}{vertices}CELLS {len(rows)} {n_numbers}\n{cells}\nCELL_TYPES {len(rows)}\n{kinds}\n"


def msh(*elements, nodes="1 0 0 0\n2 1 0 0\n3 0 1 0\n"):
    rows = "\n".join(elements)
    return (
        f"$MeshFormat\n2.2 0 8\n$EndMeshFormat\n$Nodes\n{nodes.count(chr(10))}\n{nodes}$EndNodes\n"
        f"$Elements\n{len(elements)}\n{rows}\n$EndElements\n"
    )


def binary_ply(corners):
    head = ply("\n").replace("ascii", "binary_little_endian").split("end_header\n")[0] + "end_header\n"
    floats = struct.pack("<9f", *(float(x) for corner in TRIANGLE for x in corner))
    return head.encode() + floats + struct.pack("<B3i", 3, *corners)


ELEMENT = "1 2 2 0 1 1 2 3"
GOOD = {
    ".stl": stl(TRIANGLE), ".obj": obj("f 1 2 3\n"), ".ply": ply("3 0 1 2\n"), ".vtk": vtk("3 0 1 2"),
    ".msh": msh(ELEMENT),
}  # fmt: skip
STL, OBJ, PLY, VTK, MSH = GOOD.values()
LINE = ((0, 0, 0), (1, 0, 0), (2, 0, 0))
OTHER = ((0, 0, 0), (1, 0, 0), (0, -1, 0))
NOT_FINITE = "vertex 2: wanted finite coordinates"
UNREADABLE = "cannot be read as a mesh ("
NOT_TEXT = UNREADABLE + "it is not text in UTF-8"
SHORT = UNREADABLE + "it is cut short, or not of the format that its ending tells"
FLAT = "the mesh cannot be used: 1 triangle without area (the first: triangle 1 at "
TWICE = "the mesh cannot be used: 1 triangle that is there more than once (the first: triangle 2 at "
FORKED = "the mesh cannot be used: 1 edge of more than two triangles"
TURNED = "the mesh cannot be used: 1 edge whose two triangles are oriented differently"
NEITHER = "wanted text that begins with 'solid', or a binary STL file; "
FOUR = "0 0 0\n1 0 0\n0 1 0\n0 -1 0\n"
FOUR_NODES = "1 0 0 0\n2 1 0 0\n3 0 1 0\n4 0 -1 0\n"

MALFORMED = {
    ".stl": [
        ("", NEITHER + "it is neither, found 0 bytes"),
        (OBJ, NEITHER + "it is neither, found 32 bytes"),
        ("solid s\n", "line 1: it ends without 'endsolid', so it is cut short"),
        (stl(), "holds no triangles"),
        (binary_stl(0), "holds no triangles"),
        (binary_stl(2, TRIANGLE), NEITHER + "its header announces 2 triangles, which take 184 bytes, found 134 bytes"),
        (binary_stl(2**32 - 1, TRIANGLE), "its header announces 4,294,967,295 triangles"),
        (binary_stl(1, TRIANGLE) + b"xx", "its header announces 1 triangles, which take 134 bytes, found 136"),
        (binary_stl(1, (TRIANGLE[0], (np.nan, 0, 0), TRIANGLE[2])), NOT_FINITE),
        (STL.replace("vertex 1 0", "vertex nan 0"), NOT_FINITE),
        (STL.replace("vertex 1 0", "vertex 1e300 0"), "vertex 2: wanted coordinates up to 1e+70"),
        (STL.replace("vertex 1 0", "vertex one 0"), "line 5: wanted 'vertex' and three numbers, found 'vertex one"),
        (STL.replace("vertex 1 0 0", "vertex 1 0"), "line 5: wanted 'vertex' and three numbers, found 'vertex 1 0'"),
        (STL.replace("vertex 1 0 0", "vertex 1,0 0"), "line 5: wanted 'vertex' and three numbers"),
        (STL.replace("vertex 0 1 0\n", ""), "line 6: wanted 'vertex' and three numbers, found 'endloop'"),
        (STL.replace("vertex 0 1 0\n", "vertex 0 1 0\nvertex 1 1 0\n"), "line 7: wanted 'endloop', found 'vertex"),
        (STL.replace("outer loop\n", ""), "line 3: wanted 'outer loop', found 'vertex 0 0 0'"),
        (STL.replace("normal 0 0 1", "normal up"), "line 2: wanted 'facet normal' and three numbers"),
        (stl(TRIANGLE, OTHER)[:-60], "line 11: wanted 'vertex' and three numbers, found 'vertex 0'"),
        (STL.replace("endsolid s\n", ""), "line 8: it ends without 'endsolid'"),
        (STL.encode().replace(b"solid s", b"solid \xe9"), NOT_TEXT),
        (gzip.compress(STL.encode(), mtime=0), NEITHER),
        (stl((TRIANGLE[0], TRIANGLE[1], TRIANGLE[1])), FLAT),
        (stl(LINE), FLAT),
        (stl(TRIANGLE, TRIANGLE), TWICE),
        (stl(TRIANGLE, OTHER), TURNED),
        (stl(TRIANGLE, (*TRIANGLE[:2], (0, 0, 1)), OTHER), FORKED),
    ],
    ".obj": [
        ("", "holds no triangles"),
        (obj(""), "holds no triangles"),
        (obj("l 1 2\n"), "holds no triangles"),
        (STL, "holds no triangles"),
        ("f 1 2 3\n", "holds vertices of shape (0,)"),
        (obj("f 1 2 9\n"), "line 4: wanted numbers of vertices from 1 to 3, found 'f 1 2 9'; correct the line"),
        (obj("f 0 1 2\n"), "line 4: wanted numbers of vertices from 1, found 'f 0 1 2'; correct the line"),
        (obj("f -3 -2 -1\n"), "line 4: wanted numbers of vertices from 1"),
        (obj("f 1 2\n"), "line 4: wanted 'f' and the numbers of three vertices, found 'f 1 2'"),
        (obj("f 1.5 2 3\n"), "line 4: wanted 'f' and the numbers of three vertices"),
        (obj("f a b c\n"), "line 4: wanted 'f' and the numbers of three vertices"),
        (obj("f 1 2 99999999999999999999\n"), "line 4: wanted 'f' and the numbers of three vertices"),
        (obj("f 1 2 \\\n3\n"), "line 4: wanted 'f' and the numbers of three vertices"),
        (OBJ.replace("v 1 0 0", "v one 0 0"), "line 2: wanted 'v' and three coordinates, found 'v one 0 0'"),
        (OBJ.replace("v 1 0 0", "v 1 0"), "line 2: wanted 'v' and three coordinates, found 'v 1 0'"),
        (OBJ.replace("v 1 0 0", "v 1 0 0 9 9 9"), "line 2: wanted 'v' and three coordinates"),
        (OBJ.replace("v 1 0 0", "v 1,0 0 0"), "line 2: wanted 'v' and three coordinates"),
        (OBJ.replace("v 1 0 0", "v inf 0 0"), NOT_FINITE),
        (OBJ.replace("v 1 0 0", "v 1e99 0 0"), "vertex 2: wanted coordinates up to 1e+70"),
        (obj("f 1 2 4 3\n", (*TRIANGLE, (1, 1, 0))), "holds cells of kind quad; wanted triangles, so split them"),
        (obj("f 1 2 3\nf 1 2 4 3\n", (*TRIANGLE, (1, 1, 0))), "holds cells of kind quad"),
        (OBJ.encode() + b"# \xe9\n", NOT_TEXT),
        (gzip.compress(OBJ.encode(), mtime=0), NOT_TEXT),
        (obj("f 1 2 2\n"), FLAT),
        (obj("f 1 2 3\n", LINE), FLAT),
        (obj("f 1 2 3\nf 2 3 1\n"), TWICE),
        (obj("f 1 2 3\nf 1 2 4\n", (*TRIANGLE, (0, -1, 0))), TURNED),
        (obj("f 1 2 3\nf 1 2 4\nf 1 2 5\n", (*TRIANGLE, (0, -1, 0), (0, 0, 1))), FORKED),
    ],
    ".ply": [
        ("", UNREADABLE + "Expected ply)"),
        (PLY[:4], "its header has no 'end_header'"),
        (PLY.replace("end_header\n", ""), "its header has no 'end_header'"),
        (PLY.replace("ascii", "morse"), SHORT),
        (PLY.replace("ascii 1.0", "ascii 9.9"), SHORT),
        (PLY[: -len("3 0 1 2\n")], "its header announces 4 rows, found 3; write it again"),
        (PLY + "9 9 9\n", "its header announces 4 rows, found 5"),
        (PLY.replace("vertex 3", "vertex 99999999999"), "its header announces 100,000,000,000 rows, found 4"),
        (PLY.replace("vertex 3", "vertex -3"), "its header announces 1 rows, found 4"),
        (PLY.replace("float x", "quux x"), "it holds 'quux', which its format does not know"),
        (PLY.replace("property float z", "property float y"), "field 'y' occurs more than once"),
        (PLY.replace("property float z\n", ""), UNREADABLE),
        (ply("3 0 1 7\n"), "triangle 1: names vertex 7, counted from 0, of 3"),
        (ply("3 0 1 -1\n"), "triangle 1: names vertex -1, counted from 0, of 3"),
        (ply("3 0 one 2\n"), "invalid literal for int() with base 10: 'one'"),
        (ply("-1 0 1 2\n"), "out of bounds for uint8"),
        (ply("2 0 1\n"), "holds no triangles"),
        (ply("4 0 1 3 2\n", vertices=VERTICES + "1 1 0\n"), "holds cells of kind quad"),
        (PLY.replace("1 0 0", "nan 0 0"), NOT_FINITE),
        (PLY.replace("1 0 0", "1e300 0 0"), NOT_FINITE),
        (PLY.replace("ascii", "binary_little_endian"), "buffer size must be a multiple of element size"),
        (binary_ply((0, 1, 2))[:-6], UNREADABLE),
        (binary_ply((0, 1, 2**31 - 1)), "triangle 1: names vertex 2147483647, counted from 0, of 3"),
        (PLY.encode().replace(b"element", b"comment \xe9\nelement", 1), NOT_TEXT),
        (gzip.compress(PLY.encode(), mtime=0), NOT_TEXT),
        (ply("3 0 1 1\n"), FLAT),
        (ply("3 0 1 2\n3 1 2 0\n"), TWICE),
        (ply("3 0 1 2\n3 0 1 3\n", vertices=FOUR), TURNED),
    ],
    ".vtk": [
        ("", UNREADABLE + "Illegal VTK header"),
        (PLY, UNREADABLE + "Illegal VTK header"),
        (VTK[:29], "Unknown VTK data type ''"),
        (VTK[:85], UNREADABLE),
        (VTK.replace("ASCII", "MORSE"), "Unknown VTK data type 'MORSE'"),
        (VTK.replace("ASCII", "BINARY"), SHORT),
        (VTK.replace("UNSTRUCTURED_GRID", "POLYDATA"), "supported (not POLYDATA)"),
        (VTK.replace("float", "quux"), "it holds 'quux', which its format does not know"),
        (VTK.replace("POINTS 3", "POINTS 4"), UNREADABLE),
        (VTK.replace("POINTS 3", "POINTS 99999999999"), UNREADABLE),
        (VTK.replace("1 0 0", "one 0 0"), UNREADABLE),
        (VTK.replace("1 0 0", "inf 0 0"), NOT_FINITE),
        (VTK.replace("CELLS 1", "CELLS 999999999"), "announces 999,999,999 CELLS but 1 CELL_TYPES"),
        (VTK.replace("CELL_TYPES 1", "CELL_TYPES 2"), "announces 2 CELL_TYPES, found 1"),
        (VTK.split("CELL_TYPES")[0], "Required section CELL_TYPES not found"),
        (vtk("3 0 1 5"), "triangle 1: names vertex 5, counted from 0, of 3"),
        (vtk("3 0 1 -1"), "triangle 1: names vertex -1, counted from 0, of 3"),
        (vtk("9 0 1 2"), SHORT),
        (vtk("3 0 1 2", kind=999), "cells that meshio cannot handle (types 999)"),
        (vtk("2 0 1", kind=3), "holds no triangles"),
        (vtk("4 0 1 3 2", kind=9, vertices=FOUR), "holds cells of kind quad"),
        (vtk("4 0 1 2 3", kind=10, vertices=FOUR), "holds cells of kind tetra"),
        (VTK.encode().replace(b"ASCII", b"ASCI\xe9"), NOT_TEXT),
        (gzip.compress(VTK.encode(), mtime=0), NOT_TEXT),
        (vtk("3 0 1 1"), FLAT),
        (vtk("3 0 1 2\n3 1 2 0"), TWICE),
        (vtk("3 0 1 2\n3 0 1 3", vertices=FOUR), TURNED),
    ],
    ".msh": [
        ("", "wanted a Gmsh file, which begins with $MeshFormat; found ''"),
        (VTK, "wanted a Gmsh file, which begins with $MeshFormat; found '# vtk DataFile"),
        ("$NOD\n3\n1 0 0 0\n", "wanted a Gmsh file"),
        (MSH.replace("2.2", "9.9"), "Need mesh format in"),
        (MSH.replace("2.2 0 8", "2.2 1 8"), SHORT),
        (MSH[:60], "ends without $EndNodes, so it is cut short"),
        (MSH[:-13], "ends without $EndElements, so it is cut short"),
        (MSH.replace("$EndNodes\n", ""), "line 9: wanted $EndNodes, found '$Elements'"),
        (MSH.split("$Elements")[0], "holds no triangles"),
        (MSH.split("$Nodes")[0] + "$Elements" + MSH.split("$Elements")[1], UNREADABLE),
        (MSH.replace("$Nodes\n3", "$Nodes\n99"), UNREADABLE),
        (MSH.replace("$Nodes\n3", "$Nodes\n99999999999"), UNREADABLE),
        (MSH.replace("$Elements\n1", "$Elements\n5"), "'$EndElements'"),
        (MSH.replace("2 1 0 0", "2 one 0 0"), UNREADABLE),
        (MSH.replace("2 1 0 0", "2 nan 0 0"), NOT_FINITE),
        (MSH.replace("3 0 1 0\n", "2 0 1 0\n"), "out of bounds"),
        (msh("1 2 2 0 1 1 2 9"), "index 8 is out of bounds"),
        (msh("1 2 2 0 1 1 2 0"), "line 12: wanted numbers of vertices from 1, found '1 2 2 0 1 1 2 0'"),
        (msh("1 2 2 0 1 1 2 -1"), "line 12: wanted numbers of vertices from 1"),
        (msh("1 2 2 0 1 1 2"), "line 12: wanted a triangle of three vertices"),
        (msh("1 2 2 0 1 1 two 3"), "line 12: wanted whole numbers"),
        (msh("1 2 -1 0 1 1 2 3"), "line 12: wanted an element, its kind, tags and vertices"),
        (msh("1 999 2 0 1 1 2 3"), "it holds 999, which its format does not know"),
        (msh("1 1 2 0 1 1 2"), "holds no triangles"),
        (msh(ELEMENT, "2 3 2 0 1 1 2 3 4", nodes=FOUR_NODES), "holds cells of kind quad"),
        (MSH.encode().replace(b"8\n", b"8\n\xe9\n", 1), NOT_TEXT),
        (gzip.compress(MSH.encode(), mtime=0), "wanted a Gmsh file"),
        (msh("1 2 2 0 1 1 2 2"), FLAT),
        (msh(ELEMENT, "2 2 2 0 1 2 3 1"), TWICE),
        (msh(ELEMENT, "2 2 2 0 1 1 2 4", nodes=FOUR_NODES), TURNED),
    ],
}  # fmt: skip


def test_every_format_has_twenty_malformed_files():
    assert set(MALFORMED) == set(READERS) == set(CHECKS) == set(GOOD)
    assert all(len(cases) >= 20 for cases in MALFORMED.values())


@pytest.mark.parametrize("ending", GOOD)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_file_that_the_cases_spoil_is_a_good_one(tmp_path, ending, newline):
    path = tmp_path / f"good{ending}"
    path.write_bytes(GOOD[ending].replace("\n", newline).encode())
    mesh, _ = load_usable_mesh(path)
    np.testing.assert_array_equal(mesh.vertices[mesh.triangles[0]], TRIANGLE)


def test_a_binary_file_is_a_good_one_even_if_it_begins_like_text(tmp_path):
    (tmp_path / "a.stl").write_bytes(b"solid" + binary_stl(1, TRIANGLE)[5:])
    (tmp_path / "b.ply").write_bytes(binary_ply((0, 1, 2)))
    for name in ("a.stl", "b.ply"):
        assert len(load_usable_mesh(tmp_path / name)[0]) == 1


@pytest.mark.parametrize(
    ("ending", "content", "words"),
    [(ending, *case) for ending, cases in MALFORMED.items() for case in cases],
    ids=[f"{ending[1:]}-{i}" for ending, cases in MALFORMED.items() for i in range(len(cases))],
)
def test_a_malformed_mesh_is_one_line_with_the_file_and_what_is_wrong(
    tmp_path, capfd, ending, content, words
):
    path = tmp_path / f"bad{ending}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as error:
        load_usable_mesh(path)
    told = str(error.value)
    assert told.startswith(f"{path}: ")
    assert words in told
    assert told.isprintable()
    # What to do stands behind a semicolon, or a colon in a list of defects.
    assert "; " in told or "cannot be used: " in told
    assert capfd.readouterr() == ("", "")


VERSION_4 = (
    "$MeshFormat\n4.1 0 8\n$EndMeshFormat\n$Nodes\n1 3 1 3\n2 1 0 3\n1\n2\n3\n0 0 0\n1 0 0\n0 1 0\n$EndNodes\n"
    "$Elements\n1 1 1 1\n2 1 2 1\n1 1 2 {}\n$EndElements\n"
)


def test_elements_of_gmsh_4_are_looked_at_as_those_of_gmsh_2(tmp_path):
    path = tmp_path / "a.msh"
    path.write_text(VERSION_4.format(3))
    assert len(load_usable_mesh(path)[0]) == 1
    path.write_text(VERSION_4.format(0))
    with pytest.raises(ConfigError, match="line 17: wanted numbers of vertices from 1, found '1 1 2 0'"):
        load_usable_mesh(path)
