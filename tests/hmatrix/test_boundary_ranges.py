"""Boundary elements at any scale, at low frequencies and near the surface, against fields that are known."""

import numpy as np
import pytest

from pipeline.data.meshes import sphere_mesh
from pipeline.errors import ConfigError
from pipeline.hmatrix.boundary_elements import (
    PlaneWave,
    TriangleMesh,
    solve_dirichlet,
    solve_neumann,
    solve_scattering,
)
from pipeline.hmatrix.boundary_elements.potentials import _distances
from pipeline.hmatrix.kernels import Helmholtz, Yukawa

AROUND = np.array([[0, 0, 3.0], [2.0, 1, 1], [-1.5, 1, 0.5]])
SLOPE = np.array([1.0, 2.0, 0.0])


def scaled_sphere(scale, refinements=1):
    vertices, triangles = sphere_mesh(refinements)
    return TriangleMesh(np.asarray(vertices) * scale, triangles)


@pytest.mark.parametrize("scale", [1e-60, 1e-9, 1e9])
def test_normals_are_unit_and_areas_those_of_the_shape_at_any_scale(scale):
    corners = scaled_sphere(1).corners.numpy()
    crossed = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sizes = np.linalg.norm(crossed, axis=1)
    mesh = scaled_sphere(scale)
    np.testing.assert_allclose(mesh.normals.numpy(), crossed / sizes[:, None], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(mesh.areas.numpy() / scale**2, sizes / 2, rtol=1e-12)
    if scale > 1e-60:
        single = TriangleMesh(mesh.vertices.float(), mesh.triangles)
        np.testing.assert_allclose(single.areas.numpy() / scale**2, sizes / 2, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_fields_do_not_hang_on_the_unit_of_length(scale):
    mesh, distance = scaled_sphere(scale), np.linalg.norm(AROUND, axis=1)

    def inverse(points):
        return scale / np.linalg.norm(points, axis=1)

    def slopes(points, normals):
        return -scale * (points * normals).sum(axis=1) / np.linalg.norm(points, axis=1) ** 3

    def screened(points):
        return inverse(points) * np.exp(-1 / inverse(points))

    # A polyhedron inscribed in the unit sphere with 80 faces has 5 % less of a capacity.
    found = solve_dirichlet(mesh, inverse, side="exterior")(AROUND * scale)
    np.testing.assert_allclose(found * distance, 1, rtol=0.06)
    np.testing.assert_allclose(
        solve_neumann(mesh, slopes, side="exterior")(AROUND * scale) * distance, 1, rtol=0.06
    )
    inner = 0.3 * AROUND / distance[:, None]
    linear = solve_dirichlet(mesh, lambda points: points @ SLOPE / scale)
    np.testing.assert_allclose(linear(inner * scale), inner @ SLOPE, atol=1e-4)
    constant = solve_neumann(mesh, lambda points, normals: normals @ SLOPE / scale)
    values = constant(np.concatenate([inner, 0 * inner]) * scale)
    np.testing.assert_allclose(values[:3] - values[3:], inner @ SLOPE, atol=1e-4)
    yukawa = solve_dirichlet(mesh, screened, side="exterior", kernel=Yukawa(decay=1 / scale))
    np.testing.assert_allclose(yukawa(AROUND * scale) * distance * np.exp(distance), 1, rtol=0.1)
    for condition in ("soft", "hard"):
        far = [
            solve_scattering(m, PlaneWave(1 / s), 1 / s, condition=condition).far_field([[0, 0, 1]]) / s
            for m, s in ((mesh, scale), (scaled_sphere(1.0), 1.0))
        ]
        np.testing.assert_allclose(far[0], far[1], rtol=1e-5)


@pytest.mark.parametrize("k", [1e-8, 1e-5, 1e-3, 0.3, 1e-3 + 0.2j])
def test_fields_outside_of_a_body_are_right_down_to_the_lowest_frequencies(k):
    mesh, place = scaled_sphere(1.0), np.array([0.3, 0.1, -0.2])

    def field(points):
        r = np.linalg.norm(points - place, axis=1)
        return np.exp(1j * k * r) / (4 * np.pi * r)

    def slopes(points, normals):
        away = points - place
        r = np.linalg.norm(away, axis=1)
        return field(points) * (1j * k - 1 / r) / r * (away * normals).sum(axis=1)

    for solution in (
        solve_dirichlet(mesh, field, side="exterior", kernel=Helmholtz(k)),
        solve_neumann(mesh, slopes, side="exterior", kernel=Helmholtz(k)),
    ):
        np.testing.assert_allclose(solution(AROUND), field(AROUND), rtol=0.06)


@pytest.mark.parametrize("k", [1e-8, 1e-2])
def test_small_spheres_scatter_as_rayleigh_says(k):
    """Far fields are -1 of a soft unit sphere, and k²(-1/3 + cos/2) of a hard one, as k approaches 0."""
    mesh = scaled_sphere(1.0, 2)
    cosine = np.array([1.0, 0.0, -1.0])
    directions = np.stack([np.sqrt(1 - cosine**2), 0 * cosine, cosine], axis=1)
    soft = solve_scattering(mesh, PlaneWave(k), k).far_field(directions)
    np.testing.assert_allclose(soft, -1, atol=0.02 + k)
    hard = solve_scattering(mesh, PlaneWave(k), k, condition="hard").far_field(directions)
    np.testing.assert_allclose(hard / k**2, -1 / 3 + cosine / 2, atol=0.04)


def test_distances_from_triangles_are_those_from_their_points():
    generator = np.random.default_rng(0)
    points, corners = generator.standard_normal((60, 3)), generator.standard_normal((60, 3, 3))
    grid = np.linspace(0, 1, 300)
    x, y = (part.ravel() for part in np.meshgrid(grid, grid, indexing="ij"))
    kept = x + y <= 1 + 1e-12
    weights = np.stack([x, y, 1 - x - y], axis=1)[kept]
    nearest = [np.linalg.norm(p - weights @ c, axis=1).min() for p, c in zip(points, corners, strict=True)]
    found = _distances(points, corners)
    assert (found <= np.array(nearest) + 1e-12).all()
    np.testing.assert_allclose(found, nearest, atol=0.02)


def test_points_near_corners_are_refused_and_those_that_are_not_are_right():
    mesh = scaled_sphere(1.0)
    linear = solve_dirichlet(mesh, lambda points: points @ SLOPE)
    vertices = mesh.vertices.numpy()
    corners = mesh.corners.numpy()
    middles = (corners + np.roll(corners, 1, axis=1)).reshape(-1, 3) / 2
    for near in (vertices, middles):
        for share in (0.1, 0.03, 1e-3, 1e-9, 0.0, -1e-3):
            with pytest.raises(ConfigError, match=f"{len(near)} of {len(near)} points are nearer"):
                linear(near * (1 - share))
        np.testing.assert_allclose(linear(near * 0.8), 0.8 * near @ SLOPE, atol=1e-4)
    scattered = solve_scattering(mesh, PlaneWave(1.0), 1.0)
    with pytest.raises(ConfigError, match="42 of 42 points are nearer"):
        scattered.total(vertices * 1.01)
    with pytest.raises(ConfigError, match="1 of 2 points is nearer"):
        linear([[0, 0, 0.0], vertices[0] * 0.99])
    with pytest.raises(ConfigError, match="points: a coordinate is NaN or infinite"):
        linear([[0, 0, np.nan]])
