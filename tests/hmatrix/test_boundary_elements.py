"""The single layer against closed forms, brute-force quadrature, and capacitances that are known."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from pipeline.data.meshes import cube_mesh, sphere_mesh
from pipeline.hmatrix import _native
from pipeline.hmatrix.boundary_elements import (
    NearField,
    SingleLayer,
    TriangleMesh,
    capacitance,
    extrapolate,
    solve_capacitance,
)
from pipeline.hmatrix.boundary_elements.near_field import near_pairs
from pipeline.hmatrix.boundary_elements.quadrature import (
    gauss_rule,
    pair_means,
    self_mean,
    split_rule,
    triangle_potential,
)
from pipeline.hmatrix.kernels import LaplaceSingleLayer
from pipeline.hmatrix.krylov import conjugate_gradient

CUBE = 0.66067816  # Helsing, Perfekt, "On the polarizability and capacitance of the cube", ACHA 2013
KERNEL = LaplaceSingleLayer()


@dataclass(frozen=True)
class DenseSolver:
    matrix: torch.Tensor

    def solve(self, b):
        return torch.linalg.solve(self.matrix, b)


def triangle_mesh(mesh):
    return TriangleMesh(*(torch.from_numpy(part) for part in mesh))


def dense_operator(layer):
    return layer.operator(KERNEL(layer.points, layer.points))


def centroid_solver(layer):
    centers = layer.mesh.centroids
    return DenseSolver(KERNEL(centers, centers) + torch.diag(layer.safe_diagonal))


def fine_rule(levels):
    rule = gauss_rule(7)
    for _ in range(levels):
        rule = split_rule(rule)
    return rule


@pytest.fixture
def triangle():
    return torch.tensor([[0.1, 0.2, 0.0], [1.3, 0.1, 0.2], [0.4, 1.1, -0.3]], dtype=torch.float64)


@pytest.mark.parametrize(("n_points", "degree"), [(1, 1), (3, 2), (7, 5)])
def test_gauss_rules_are_exact_for_their_degree(n_points, degree):
    for rule in (gauss_rule(n_points), split_rule(gauss_rule(n_points))):
        coordinates, weights = rule
        for a in range(degree + 1):
            for b in range(degree + 1 - a):
                exact = 2 * math.factorial(a) * math.factorial(b) / math.factorial(a + b + 2)
                found = (weights * coordinates[:, 0] ** a * coordinates[:, 1] ** b).sum()
                assert float(found) == pytest.approx(exact, rel=1e-13)


def test_the_potential_of_a_triangle_is_its_integral(triangle):
    coordinates, weights = fine_rule(5)
    area = float(TriangleMesh(triangle, torch.tensor([[0, 1, 2]])).areas)
    places = torch.tensor(
        [[0.5, 0.4, 0.3], [2.0, -1.0, 0.5], [-3.0, 2.0, 1.0], [0.6, 0.5, -0.4]], dtype=torch.float64
    )
    for x in places:
        expected = area * (weights / (x - coordinates @ triangle).norm(dim=1)).sum()
        assert float(triangle_potential(x, triangle)) == pytest.approx(float(expected), rel=1e-6)


def test_the_potential_is_finite_and_additive_on_the_triangle_itself(triangle):
    a, b, c = triangle
    middle = (b + c) / 2
    halves = torch.stack([torch.stack([a, b, middle]), torch.stack([a, middle, c])])
    for coordinates in ([1, 0, 0], [0, 0.5, 0.5], [0.5, 0.25, 0.25], [1 / 3] * 3, [-1, 2, 0], [0, 3, -2]):
        x = torch.tensor(coordinates, dtype=torch.float64) @ triangle
        whole = triangle_potential(x, triangle)
        assert math.isfinite(whole)
        torch.testing.assert_close(triangle_potential(x, halves).sum(), whole, rtol=1e-12, atol=0)


def test_the_potential_at_the_center_of_an_equilateral_triangle_is_known():
    angles = torch.arange(3, dtype=torch.float64) * 2 * math.pi / 3
    corners = torch.stack([angles.cos(), angles.sin(), torch.zeros(3, dtype=torch.float64)], dim=1)
    # Six right triangles of height 1/2 and angle 60 degrees: 6 · 1/2 · asinh(tan 60°).
    expected = 3 * math.asinh(math.sqrt(3))
    assert float(triangle_potential(torch.zeros(3, dtype=torch.float64), corners)) == pytest.approx(
        expected, rel=1e-13
    )


def test_the_self_mean_is_the_mean_of_the_potential(triangle):
    coordinates, weights = fine_rule(6)
    area = float(TriangleMesh(triangle, torch.tensor([[0, 1, 2]])).areas)
    expected = (weights * triangle_potential(coordinates @ triangle, triangle)).sum() / area
    # Kinks at the edges leave the rule an error of about (size of its smallest triangles)² = 4^-6, times 1/100.
    assert float(self_mean(triangle)) == pytest.approx(float(expected), rel=1e-5)


def test_means_over_neighbors_agree_with_the_self_means_of_whole_and_parts(triangle):
    a, b, c = triangle
    for share in (0.5, 0.3):
        middle = (1 - share) * b + share * c
        first, second = torch.stack([a, b, middle]), torch.stack([a, middle, c])
        # |T|² m(T) = |T1|² m(T1) + |T2|² m(T2) + 2 |T1| |T2| m(T1, T2)
        whole, own = self_mean(triangle), share**2 * self_mean(first) + (1 - share) ** 2 * self_mean(second)
        expected = (whole - own) / (2 * share * (1 - share))
        found = pair_means(first[None], second[None])
        assert float(found) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("distance", [0.9, 1.2, 1.4, 1.6, 3.0, 10.0])
def test_means_over_separate_triangles_are_the_integrals(triangle, distance):
    coordinates, weights = fine_rule(2)
    diameter = float(TriangleMesh(triangle, torch.tensor([[0, 1, 2]])).diameters)
    shift = distance * diameter * torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    other = triangle[[1, 2, 0]] * 0.8 + 0.2 * triangle.mean(dim=0) + shift
    between = (coordinates @ triangle)[:, None] - coordinates @ other
    expected = weights @ (1 / between.norm(dim=2)) @ weights
    found = pair_means(triangle[None], other[None])
    assert float(found) == pytest.approx(float(expected), rel=3e-4)
    torch.testing.assert_close(pair_means(other[None], triangle[None]), found)


def test_native_means_are_those_of_the_potential(triangle):
    generator = torch.Generator().manual_seed(3)
    shifts = torch.randn(50, 1, 3, dtype=torch.float64, generator=generator)
    shifts[::5, :, 2] = 0
    targets = torch.cat([triangle + shifts, triangle[None], triangle[None, [1, 0, 2]]])
    flat = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    targets[10:20] *= flat  # coplanar with the sources
    sources = triangle.expand_as(targets).clone()
    sources[10:20] *= flat
    coordinates, weights = gauss_rule(7)
    wanted = torch.zeros(len(targets), dtype=torch.float64)
    for x, y in ((targets, sources), (sources, targets)):
        area = torch.linalg.cross(y[:, 1] - y[:, 0], y[:, 2] - y[:, 0]).norm(dim=1) / 2
        potentials = triangle_potential(coordinates @ x, y[:, None])
        wanted += (potentials @ weights) / area / 2
    found = _native.symmetric_means(
        targets.reshape(-1, 9).numpy(), sources.reshape(-1, 9).numpy(), coordinates.numpy(), weights.numpy()
    )
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-10, atol=0)


def test_a_layer_from_a_near_field_that_was_kept_is_the_same():
    mesh = triangle_mesh(cube_mesh(4, grading=2.0))
    first = SingleLayer(mesh, n_points=1)
    field = NearField.of(mesh, n_points=1)
    kept = NearField(
        *(part.clone() for part in (field.indices, field.values, field.safe_diagonal)), n_points=1
    )
    again = SingleLayer(mesh, n_points=1, near_field=kept)
    assert again.corrections.is_coalesced()
    torch.testing.assert_close(again.corrections.to_dense(), first.corrections.to_dense(), rtol=0, atol=0)
    torch.testing.assert_close(again.safe_diagonal, first.safe_diagonal, rtol=0, atol=0)


def test_a_near_field_of_something_else_is_refused():
    mesh = triangle_mesh(cube_mesh(2))
    with pytest.raises(ValueError, match="48 triangles of 1 points"):
        SingleLayer(mesh, near_field=NearField.of(mesh, n_points=1))
    with pytest.raises(ValueError, match="this layer has 108 of 3"):
        SingleLayer(triangle_mesh(cube_mesh(3)), near_field=NearField.of(mesh))


def test_near_pairs_are_those_within_reach_of_either_triangle():
    mesh = triangle_mesh(cube_mesh(3, grading=3.0))
    apart = torch.cdist(mesh.centroids, mesh.centroids)
    reach = 2.0 * torch.maximum(mesh.diameters[:, None], mesh.diameters)
    expected = torch.triu(apart <= reach, diagonal=1).nonzero().T
    torch.testing.assert_close(near_pairs(mesh, 2.0), expected)


@pytest.mark.parametrize("n_points", [1, 3])
def test_the_operator_is_symmetric_positive_definite(n_points):
    layer = SingleLayer(triangle_mesh(cube_mesh(4, grading=2.0)), n_points=n_points)
    A = dense_operator(layer) @ torch.eye(len(layer.mesh), dtype=torch.float64)
    torch.testing.assert_close(A, A.T)
    assert torch.linalg.eigvalsh(A)[0] > 0


def test_near_entries_are_galerkin_means_and_far_ones_those_of_the_points():
    layer = SingleLayer(triangle_mesh(sphere_mesh(1)))
    A = dense_operator(layer) @ torch.eye(80, dtype=torch.float64)
    torch.testing.assert_close(A.diagonal(), self_mean(layer.mesh.corners) / (4 * math.pi))
    i, j = near_pairs(layer.mesh, layer.near)
    torch.testing.assert_close(
        A[i, j], pair_means(layer.mesh.corners[i], layer.mesh.corners[j]) / (4 * math.pi)
    )
    distant = torch.ones(80, 80, dtype=torch.bool)
    distant[i, j] = distant[j, i] = False
    distant.fill_diagonal_(False)
    points = KERNEL(layer.points, layer.points).reshape(80, 3, 80, 3).mean(dim=(1, 3))
    torch.testing.assert_close(A[distant], points[distant])


def test_a_mesh_twice_as_large_has_half_the_operator_and_twice_the_capacitance():
    vertices, triangles = cube_mesh(3)
    small, large = (SingleLayer(triangle_mesh((scale * vertices, triangles))) for scale in (1, 2))
    x = torch.arange(108, dtype=torch.float64)
    torch.testing.assert_close(dense_operator(large) @ x, (dense_operator(small) @ x) / 2)
    found = [solve_capacitance(dense_operator(layer), centroid_solver(layer))[0] for layer in (small, large)]
    assert found[1] == pytest.approx(2 * found[0], rel=1e-7)


@pytest.mark.parametrize("mesh", [sphere_mesh(2), cube_mesh(6, grading=1.5), cube_mesh(6, grading=3.0)])
def test_the_safe_diagonal_makes_a_positive_definite_preconditioner(mesh):
    layer = SingleLayer(triangle_mesh(mesh))
    F = centroid_solver(layer)
    assert torch.linalg.eigvalsh(F.matrix)[0] > 0
    b = torch.randn(len(layer.mesh), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    A = dense_operator(layer)
    _, with_it = conjugate_gradient(A.__matmul__, b, preconditioner=F.solve)
    _, without = conjugate_gradient(A.__matmul__, b)
    assert with_it.iterations < 0.7 * without.iterations


def test_the_sphere_converges_to_its_radius_as_the_square_of_the_edges():
    errors = []
    for refinements in (1, 2, 3):
        layer = SingleLayer(triangle_mesh(sphere_mesh(refinements)))
        found, charges, _ = solve_capacitance(dense_operator(layer), centroid_solver(layer))
        errors.append(1 - found)
    assert errors[-1] < 0.003
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.05)
    density = layer.densities(charges)
    torch.testing.assert_close(density, torch.ones_like(density), rtol=0.02, atol=0)


def cube_capacitances(grading):
    layers = [SingleLayer(triangle_mesh(cube_mesh(n, grading))) for n in (4, 8)]
    return [solve_capacitance(dense_operator(layer), centroid_solver(layer))[0] for layer in layers]


@pytest.mark.parametrize("grading", [1.0, 1.5, 2.0])
def test_the_cube_converges_at_the_rate_of_its_grading(grading):
    coarse, fine = cube_capacitances(grading)
    assert math.log2((CUBE - coarse) / (CUBE - fine)) == pytest.approx(4 / 3 * grading, abs=0.3)


def test_the_capacitance_of_the_cube_is_right_to_four_digits():
    coarse, fine = cube_capacitances(3.0)
    assert extrapolate(coarse, fine, rate=3) == pytest.approx(CUBE, abs=3e-5)


def test_capacitance_is_in_units_of_four_pi_epsilon():
    assert capacitance(torch.full((10,), 4 * math.pi)) == pytest.approx(10)


@pytest.mark.parametrize(
    ("vertices", "triangles", "message"),
    [
        (torch.ones(4, 2), torch.tensor([[0, 1, 2]]), "vertices of a mesh must have the shape"),
        (torch.rand(4, 3), torch.tensor([0, 1, 2]), "triangles of a mesh must have the shape"),
        (torch.rand(4, 3), torch.tensor([[0, 1, 4]]), "corner 4 of 4"),
        (torch.rand(4, 3), torch.tensor([[0, 1, 2], [3, 1, 1]]), "triangle 2, counted from 1, has no area"),
    ],
)
def test_impossible_meshes_are_refused(vertices, triangles, message):
    with pytest.raises(ValueError, match=message):
        TriangleMesh(vertices, triangles)


def test_products_take_arrays_and_complex_charges_and_refuse_other_shapes():
    layer = SingleLayer(triangle_mesh(sphere_mesh(1)))
    A, n = dense_operator(layer), len(layer.mesh)
    x = np.random.default_rng(0).standard_normal((n, 2))
    y = A @ x
    assert isinstance(y, np.ndarray)
    np.testing.assert_array_equal(y, A @ torch.from_numpy(x))
    np.testing.assert_allclose(A @ (x[:, 0] + 1j * x[:, 1]), y[:, 0] + 1j * y[:, 1], rtol=1e-13)
    np.testing.assert_allclose(A @ np.ones(n, dtype=int), A @ np.ones(n))
    with pytest.raises(ValueError, match=f"the product needs shape .{n},. or .{n}, m., not .{n - 1},."):
        A @ x[1:, 0]


def test_a_mesh_too_far_from_the_origin_for_its_precision_is_refused():
    vertices, triangles = (torch.from_numpy(part) for part in sphere_mesh(2))
    far = 100 * vertices + 4.5e6
    capacitances = []
    for moved in (100 * vertices, far):
        layer = SingleLayer(TriangleMesh(moved, triangles))
        capacitances.append(solve_capacitance(dense_operator(layer), centroid_solver(layer))[0])
    assert capacitances[1] == pytest.approx(capacitances[0], rel=1e-6)
    with pytest.raises(
        ValueError, match=r"float32 resolves 0\.5: move the mesh to the origin, or give vertices"
    ):
        TriangleMesh(far.float(), triangles)
