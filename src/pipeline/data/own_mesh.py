"""A user's triangle meshes: STL, OBJ, PLY, VTK and Gmsh files, read by meshio."""

import importlib
import io
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch

from pipeline.artifacts.own_file import require_file
from pipeline.data.mesh_text import CHECKS
from pipeline.data.meshes import Mesh
from pipeline.errors import ConfigError
from pipeline.meshes import Diagnosis, TriangleMesh, diagnose, merged

#: meshio's modules that read a file, by its ending; `meshio.read` would end the program on a malformed file.
READERS = {".stl": "stl", ".obj": "obj", ".ply": "ply", ".vtk": "vtk", ".msh": "gmsh"}
#: Formats that count vertices from 0.
FROM_ZERO = (".ply", ".vtk")
#: Cells that have no area.
IGNORED = ("vertex", "line", "line3")
#: Largest coordinate, up to which squares of areas are finite.
LARGEST = 1e70


def load_own_mesh(path: Path) -> Mesh:
    """Read the triangles of a file; its ending tells what it is.

    Returns:
        Vertices of shape (v, 3) and triangles of shape (t, 3) as in the file, without merging or correcting.

    Raises:
        ConfigError: If the file cannot be read, has faces other than triangles, or names a missing vertex, or if
            a coordinate is not finite or too large.
    """
    kind = path.suffix.lower()
    if kind not in READERS:
        raise ConfigError(
            f"{path}: wanted a mesh that ends in {', '.join(READERS)}; write it as one of these"
        )
    require_file(path)
    told = io.StringIO()  # meshio prints what it is in doubt about
    try:
        CHECKS[kind](path)
        with warnings.catch_warnings(), redirect_stdout(told), redirect_stderr(told):
            # meshio first reads part of an STL file's text as a binary file's number of triangles, which overflows.
            warnings.simplefilter("ignore", RuntimeWarning)
            mesh = importlib.import_module(f"meshio.{READERS[kind]}").read(str(path))
        vertices = np.asarray(mesh.points, np.float64)
        cells = [(block.type, np.asarray(block.data)) for block in mesh.cells]
    except (ModuleNotFoundError, ConfigError):
        raise
    except Exception as error:  # meshio's readers raise whatever malformed text leads them to
        raise ConfigError(f"{path}: cannot be read as a mesh ({_reason(error)}); write it again") from None
    other = sorted({name for name, _ in cells} - {"triangle", *IGNORED})
    if other:
        raise ConfigError(f"{path}: holds cells of kind {', '.join(other)}; wanted triangles, so split them")
    triangles = [data for name, data in cells if name == "triangle" and len(data)]
    if not triangles:
        raise ConfigError(f"{path}: holds no triangles; it needs at least one")
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise ConfigError(
            f"{path}: holds vertices of shape {vertices.shape}; wanted three coordinates of each"
        )
    bad = np.argwhere(~(np.abs(vertices) <= LARGEST))
    if len(bad):
        wanted = (
            "finite coordinates"
            if not np.isfinite(vertices[tuple(bad[0])])
            else f"coordinates up to {LARGEST:g}"
        )
        raise ConfigError(
            f"{path}: vertex {bad[0][0] + 1}: wanted {wanted}, found {vertices[bad[0][0]]}; correct the vertex"
        )
    joined = np.concatenate(triangles).astype(np.int64)
    outside = np.argwhere((joined < 0) | (joined >= len(vertices)))
    if len(outside):
        row, corner = outside[0]
        zero = kind in FROM_ZERO
        number, how = joined[row, corner] + (not zero), ", counted from 0," if zero else ""
        raise ConfigError(
            f"{path}: triangle {row + 1}: names vertex {number}{how} of {len(vertices)}; correct the triangle"
        )
    return vertices, joined


def load_usable_mesh(path: Path) -> tuple[TriangleMesh, Diagnosis]:
    """Read a mesh, merge equal vertices, and diagnose it.

    Raises:
        ConfigError: If `load_own_mesh` refuses the file, or boundary elements would be meaningless on the mesh.
    """
    vertices, triangles = merged(*load_own_mesh(path))
    diagnosis = diagnose((vertices, triangles))
    try:
        diagnosis.require_usable(closed=False)
        return TriangleMesh(torch.from_numpy(vertices), torch.from_numpy(triangles)), diagnosis
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _reason(error: Exception) -> str:
    """Return the reason of an error that a reader of meshio raised, in plain words if its text says too little."""
    text = " ".join(str(error).split())[:200]
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8, and not of the format that its ending tells"
    if isinstance(error, KeyError):
        return f"it holds {text}, which its format does not know"
    if not text or text == "list index out of range":
        return "it is cut short, or not of the format that its ending tells"
    return text
