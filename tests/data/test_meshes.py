"""Meshes against what topology and geometry say of closed surfaces."""

import numpy as np
import pytest

from pipeline.data.meshes import cube_mesh, sphere_mesh

MESHES = {
    "icosahedron": (sphere_mesh(0), 20),
    "sphere": (sphere_mesh(2), 320),
    "smallest cube": (cube_mesh(1), 12),
    "odd cube": (cube_mesh(5), 300),
    "graded cube": (cube_mesh(6, grading=2.5), 432),
}


@pytest.fixture(params=MESHES.values(), ids=MESHES)
def mesh(request):
    return request.param


def signed_volume(vertices, triangles):
    """The volume by the divergence theorem: positive if normals point outwards."""
    return np.linalg.det(vertices[triangles]).sum() / 6


def areas(vertices, triangles):
    a, b, c = vertices[triangles].swapaxes(0, 1)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def test_a_mesh_has_the_expected_number_of_triangles_and_types(mesh):
    (vertices, triangles), n_triangles = mesh
    assert triangles.shape == (n_triangles, 3)
    assert vertices.dtype == np.float64
    assert triangles.dtype == np.int64


def test_every_edge_belongs_to_two_triangles_that_run_along_it_in_opposite_directions(mesh):
    (_, triangles), _ = mesh
    edges = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    assert len(np.unique(edges, axis=0)) == len(edges)
    assert set(map(tuple, edges)) == set(map(tuple, edges[:, ::-1]))


def test_the_euler_characteristic_is_that_of_a_sphere(mesh):
    (vertices, triangles), n_triangles = mesh
    assert set(triangles.ravel()) == set(range(len(vertices)))
    assert len(vertices) - 3 * n_triangles // 2 + n_triangles == 2


def test_cubes_have_area_six_and_volume_one():
    for grading in (1.0, 1.5, 3.0):
        mesh = cube_mesh(7, grading)
        assert areas(*mesh).sum() == pytest.approx(6, rel=1e-13)
        assert signed_volume(*mesh) == pytest.approx(1, rel=1e-13)


def test_sphere_vertices_have_length_one_and_area_and_volume_converge_as_the_square_of_the_edges():
    errors = []
    for refinements in (2, 3, 4):
        vertices, triangles = sphere_mesh(refinements)
        np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1, rtol=1e-14)
        area, volume = areas(vertices, triangles).sum(), signed_volume(vertices, triangles)
        errors.append([1 - area / (4 * np.pi), 1 - volume / (4 * np.pi / 3)])
    rates = np.log2(np.array(errors)[:-1] / np.array(errors)[1:])
    np.testing.assert_allclose(rates, 2, atol=0.1)


def test_graded_lines_crowd_towards_the_edges_and_are_symmetric():
    lines = np.unique(cube_mesh(8, grading=2.0)[0][:, 0])
    np.testing.assert_allclose(lines[:5], 0.5 * (np.arange(5) / 4) ** 2, rtol=1e-14)
    np.testing.assert_allclose(lines, 1 - lines[::-1], atol=1e-15)


@pytest.mark.parametrize(
    "make", [lambda: sphere_mesh(-1), lambda: cube_mesh(0), lambda: cube_mesh(4, grading=0.5)]
)
def test_impossible_meshes_are_refused(make):
    with pytest.raises(ValueError, match=r"not|negative"):
        make()
