"""Piecewise constant and linear functions on a mesh, in terms of functions linear on each triangle.

Function 3 t + a of the latter is 1 at corner a of triangle t and 0 on its opposite edge. A space of n functions is a
sparse matrix of shape (3 t, n) that holds the values of its functions at the corners.
"""

from typing import Literal

import numpy as np
from scipy.sparse import csr_array, diags_array

from pipeline.meshes.triangles import TriangleMesh

Space = Literal["P0", "P1", "P1_0"]


def space_matrix(mesh: TriangleMesh, space: Space) -> csr_array:
    """Return the functions of a space, shape (3 t, n).

    Args:
        mesh: The surface.
        space: "P0", constant on each triangle; "P1", continuous and linear, one function per vertex; "P1_0", those of
            "P1" that vanish on open edges, in their order.
    """
    corners = mesh.triangles.numpy().reshape(-1)
    ones = np.ones(len(corners))
    places = np.arange(len(corners))
    if space == "P0":
        return csr_array((ones, (places, places // 3)), shape=(len(corners), len(mesh)))
    if space not in ("P1", "P1_0"):
        raise ValueError(f'a space must be "P0", "P1" or "P1_0", not {space!r}')
    linear = csr_array((ones, (places, corners)), shape=(len(corners), len(mesh.vertices)))
    if space == "P1":
        return linear
    inner = np.setdiff1d(np.arange(len(mesh.vertices)), mesh.open_edges.numpy())
    return linear[:, inner]


def mass_matrix(mesh: TriangleMesh, n_triangles: int) -> csr_array:
    """Return the integrals of products of functions linear on each triangle, shape (3 t, 3 t).

    Integrals go over the first `n_triangles` of the mesh.
    """
    local = (np.ones((3, 3)) + np.eye(3)) / 12
    values = mesh.areas.double().numpy()[:n_triangles, None, None] * local
    i = 3 * np.arange(n_triangles)[:, None, None] + np.arange(3)[:, None]
    rows, columns = np.broadcast_arrays(i, i.transpose(0, 2, 1))
    n = 3 * len(mesh)
    return csr_array((values.ravel(), (rows.ravel(), columns.ravel())), shape=(n, n))


def surface_curls(mesh: TriangleMesh, functions: csr_array) -> list[csr_array]:
    """Return the three components of the surface curl n x grad of continuous functions, constant on each triangle."""
    corners = mesh.corners.double().numpy()
    # n x grad of the function of corner a is the opposite edge over twice the area.
    edges = np.roll(corners, -2, axis=1) - np.roll(corners, -1, axis=1)
    curls = edges / (2 * mesh.areas.double().numpy()[:, None, None])
    rows = np.repeat(np.arange(3 * len(mesh)), 3)
    columns = (3 * np.arange(len(mesh))[:, None, None] + np.tile(np.arange(3), (3, 1))).ravel()
    n = 3 * len(mesh)
    result = []
    for axis in range(3):
        values = np.repeat(curls[:, None, :, axis], 3, axis=1).ravel()
        result.append(csr_array((values, (rows, columns)), shape=(n, n)) @ functions)
    return result


def normal_components(mesh: TriangleMesh, functions: csr_array) -> list[csr_array]:
    """Return functions times each component of the normal."""
    normals = np.repeat(mesh.normals.double().numpy(), 3, axis=0)
    return [diags_array(normals[:, axis]) @ functions for axis in range(3)]
