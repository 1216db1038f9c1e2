"""Boundary integral operators against exact integrals, spherical harmonics and identities that hold on any surface."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import aslinearoperator

from pipeline.data.meshes import cube_mesh, sphere_mesh, torus_mesh
from pipeline.errors import ConfigError
from pipeline.hmatrix.boundary_elements import LayerOperators, TriangleMesh
from pipeline.hmatrix.boundary_elements.normal_derivative import NormalDerivative, radial
from pipeline.hmatrix.boundary_elements.pair_rules import (
    TrianglePairs,
    conical_rule,
    product_rule,
    touching_rule,
)
from pipeline.hmatrix.boundary_elements.panel_integrals import integrals
from pipeline.hmatrix.boundary_elements.quadrature import self_mean
from pipeline.hmatrix.kernels import Helmholtz, LaplaceSingleLayer, Matern, Yukawa

KERNELS = [LaplaceSingleLayer(), Yukawa(1.5), Helmholtz(2.0)]
IDS = [kernel.name for kernel in KERNELS]
CLOSED = {
    "sphere": lambda: sphere_mesh(1),
    "cube": lambda: cube_mesh(4),
    "torus": lambda: torus_mesh(12, 7),
}


@pytest.fixture(scope="module")
def operators():
    made = {}

    def of(kernel, refinements):
        key = kernel, refinements
        if key not in made:
            made[key] = LayerOperators(TriangleMesh(*sphere_mesh(refinements)), kernel)
        return made[key]

    return of


def disc_mesh(n):
    """Return the unit disc: a square grid pressed into it, finer towards the rim."""
    line = np.sin(np.linspace(-math.pi / 2, math.pi / 2, n + 1))
    x, y = (part.ravel() for part in np.meshgrid(line, line, indexing="ij"))
    vertices = np.stack([x * np.sqrt(1 - y**2 / 2), y * np.sqrt(1 - x**2 / 2), 0 * x], axis=1)
    corner = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).ravel()
    right, up, across = corner + n + 1, corner + 1, corner + n + 2
    # The diagonals at the corners of the square leave no triangle flat.
    i, j = np.divmod(np.arange(n * n), n)
    turned = (i < n / 2) == (j < n / 2)
    first = np.where(
        turned[:, None], np.stack([corner, right, up], axis=1), np.stack([corner, right, across], axis=1)
    )
    second = np.where(
        turned[:, None], np.stack([right, across, up], axis=1), np.stack([corner, across, up], axis=1)
    )
    return TriangleMesh(vertices, np.concatenate([first, second]))


@pytest.mark.parametrize("n_common", [0, 1, 2, 3])
def test_pair_rules_integrate_polynomials_exactly(n_common):
    x, y, w = touching_rule(n_common, 4) if n_common else product_rule(*conical_rule(4))

    def exact(a, b):
        return 2 * math.factorial(a) * math.factorial(b) / math.factorial(a + b + 2)

    for a, b, c, d in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1), (1, 1, 1, 0), (2, 0, 0, 1), (0, 1, 1, 1)):
        found = (w * x[:, 0] ** a * x[:, 1] ** b * y[:, 0] ** c * y[:, 2] ** d).sum()
        assert found == pytest.approx(exact(a, b) * exact(c, d), rel=1e-13)


def test_rules_for_pairs_in_touch_converge_exponentially():
    mesh = TriangleMesh(*sphere_mesh(1))
    n = len(mesh)
    pairs = TrianglePairs.of(
        mesh, torch.stack([torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)])
    )
    for n_common in (1, 2, 3):
        chosen = pairs[pairs.n_common == n_common][:20]
        i, j = chosen.triangles
        single, double, _ = integrals(mesh, 0j, chosen, touching_rule(n_common, 8))
        if n_common == 3:  # a closed form is known
            exact = self_mean(mesh.corners[i]) * mesh.areas[i] * mesh.areas[j] / (4 * math.pi)
            torch.testing.assert_close(single.sum(dim=(1, 2)), exact, rtol=1e-8, atol=0)
            assert float(double.abs().max()) < 1e-12
        errors = []
        for order in (2, 3, 4, 5):
            found, _, _ = integrals(mesh, 0j, chosen, touching_rule(n_common, order))
            errors.append(float((found - single).abs().max() / single.abs().max()))
        assert all(finer < 0.25 * coarser for coarser, finer in pairwise(errors))
        assert errors[2] < 3e-5


def test_the_corners_that_pairs_have_in_common_come_first():
    mesh = TriangleMesh(*cube_mesh(2))
    n = len(mesh)
    pairs = TrianglePairs.of(
        mesh, torch.stack([torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)])
    )
    left, right = (
        torch.take_along_dim(mesh.triangles[t], c, dim=1) for t, c in zip(*pairs_parts(pairs), strict=True)
    )
    for place in range(3):
        common = pairs.n_common > place
        assert torch.equal(left[common, place], right[common, place])
    assert torch.equal(pairs.corners.sort(dim=2).values, torch.arange(3).expand(2, n * n, 3))


def pairs_parts(pairs):
    return pairs.triangles, pairs.corners


@pytest.mark.parametrize("wavenumber", [0j, 1.5j, 2 + 0j, 2 + 0.5j])
def test_the_normal_derivative_is_that_of_the_fundamental_solution(wavenumber):
    generator = torch.Generator().manual_seed(0)
    x, y, n = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    h = 1e-5

    def G(at):
        return radial((x - at).square().sum(dim=1), wavenumber)[0]

    slope = (G(y + h * n) - G(y - h * n)) / (2 * h)
    F = radial((x - y).square().sum(dim=1), wavenumber)[1]
    torch.testing.assert_close(F * ((x - y) * n).sum(dim=1), slope, rtol=1e-7, atol=1e-9)
    if wavenumber == 2:
        kernel = NormalDerivative(Helmholtz(2.0), 1e-3)
        block = kernel(torch.cat([x, n], dim=1), torch.cat([y, 1e-3 * n], dim=1))
        torch.testing.assert_close(block.diagonal(), slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", CLOSED)
def test_the_double_layer_of_ones_is_gauss_solid_angle(name):
    mesh = TriangleMesh(*CLOSED[name]())
    layers = LayerOperators(mesh)
    for space in ("P0", "P1"):
        ones = np.ones(layers.n(space))
        found = layers.double_layer("P0", space) @ ones
        np.testing.assert_allclose(found, -0.5 * mesh.areas.numpy(), rtol=2e-3)
        assert found.sum() == pytest.approx(-0.5 * float(mesh.areas.sum()), rel=2e-4)


@pytest.mark.parametrize("name", CLOSED)
def test_constants_are_the_null_space_of_laplaces_hypersingular_operator(name):
    layers = LayerOperators(TriangleMesh(*CLOSED[name]()))
    W = layers.hypersingular("P1")
    assert np.abs(W @ np.ones(W.shape[1])).max() < 1e-14
    eigenvalues = np.linalg.eigvalsh(W.to_dense())
    assert eigenvalues[0] == pytest.approx(0, abs=1e-13)
    assert eigenvalues[1] > 1e-3 * eigenvalues[-1]


def test_spherical_harmonics_are_eigenfunctions_with_errors_that_fall_as_squares(operators):
    # On the unit sphere V, K and W have the eigenvalues 1/(2n+1), -1/(2(2n+1)) and n(n+1)/(2n+1); here n = 1.
    errors = []
    for refinements in (1, 2):
        layers = operators(KERNELS[0], refinements)
        constant, linear = (part[:, 2].numpy() for part in (layers.mesh.centroids, layers.mesh.vertices))
        found = []
        for A, M, u, eigenvalue in (
            (layers.single_layer(), layers.mass(), constant, 1 / 3),
            (layers.single_layer("P1", "P1"), layers.mass("P1", "P1"), linear, 1 / 3),
            (layers.double_layer("P1", "P1"), layers.mass("P1", "P1"), linear, -1 / 6),
            (layers.adjoint_double_layer(), layers.mass(), constant, -1 / 6),
            (layers.hypersingular(), layers.mass("P1", "P1"), linear, 2 / 3),
        ):
            found.append(abs(u @ (A @ u) / (u @ (M @ u)) / eigenvalue - 1))
        errors.append(found)
    coarse, fine = np.array(errors)
    assert (fine < 0.03).all()
    assert ((fine < coarse / 3) | (fine < 1e-3)).all()


@pytest.mark.parametrize("kernel", KERNELS, ids=IDS)
def test_both_calderon_equations_hold_for_a_solution_with_errors_that_fall_as_squares(kernel, operators):
    # u, t of a wave from outside: (1/2 + K) u = V t and W u = (1/2 - K') t.
    k = {"laplace_single_layer": 0j, "yukawa": 1.5j, "helmholtz": 2 + 0j}[kernel.name]
    source = torch.tensor([[0.0, 0.5, 2.2]], dtype=torch.float64)
    errors = []
    for refinements in (1, 2):
        layers = operators(kernel, refinements)
        mesh = layers.mesh
        u = radial((mesh.vertices - source).square().sum(dim=1), k)[0].numpy()
        away = mesh.centroids - source
        t = -(radial(away.square().sum(dim=1), k)[1] * (away * mesh.normals).sum(dim=1)).numpy()
        first = (
            layers.double_layer("P0", "P1") @ u
            + 0.5 * (layers.mass("P0", "P1") @ u)
            - layers.single_layer() @ t
        )
        second = (
            layers.hypersingular() @ u
            + layers.adjoint_double_layer("P1", "P0") @ t
            - 0.5 * (layers.mass("P1", "P0") @ t)
        )
        errors.append(
            [
                np.linalg.norm(first) / np.linalg.norm(layers.mass("P0", "P1") @ u),
                np.linalg.norm(second) / np.linalg.norm(layers.mass("P1", "P0") @ t),
            ]
        )
    assert (np.array(errors[1]) < np.array(errors[0]) / 2.7).all()
    assert max(errors[1]) < 0.03


@pytest.mark.parametrize("kernel", KERNELS, ids=IDS)
def test_operators_have_the_symmetries_that_they_should(kernel, operators):
    layers = operators(kernel, 1)
    V, W = layers.single_layer().to_dense(), layers.hypersingular().to_dense()
    np.testing.assert_allclose(V, V.T, atol=1e-12)
    np.testing.assert_allclose(W, W.T, atol=1e-12)
    K, adjoint = layers.double_layer("P0", "P1"), layers.adjoint_double_layer("P1", "P0")
    np.testing.assert_allclose(adjoint.to_dense(), K.to_dense().T, atol=1e-14)
    np.testing.assert_allclose(K.T.to_dense(), K.to_dense().T, atol=1e-14)
    if not kernel.is_complex:
        assert np.linalg.eigvalsh(V)[0] > 0


def test_compressed_operators_are_those_of_all_pairs():
    mesh = TriangleMesh(*sphere_mesh(2))
    loose, tight = (LayerOperators(mesh, Helmholtz(2.0), tolerance=t) for t in (1e-4, 1e-8))
    for name in ("single_layer", "double_layer", "hypersingular"):
        a, b = (getattr(layers, name)() for layers in (loose, tight))
        x = np.random.default_rng(0).standard_normal((a.shape[1], 2))
        assert np.linalg.norm(a @ x - b @ x) < 1e-3 * np.linalg.norm(b @ x)


def test_operators_are_added_scaled_and_taken_by_scipy(operators):
    layers = operators(KERNELS[2], 1)
    V, K, M = layers.single_layer(), layers.double_layer("P0", "P0"), layers.mass()
    A = 2j * V - K + 0.5 * M
    dense = 2j * V.to_dense() - K.to_dense() + 0.5 * M.toarray()
    x = np.random.default_rng(0).standard_normal(len(dense))
    np.testing.assert_allclose(A @ x, dense @ x)
    np.testing.assert_allclose(A @ torch.from_numpy(x), dense @ x)
    np.testing.assert_allclose(aslinearoperator(A).rmatvec(x), dense.conj().T @ x)
    np.testing.assert_allclose(A.T @ x, dense.T @ x)
    with pytest.raises(ValueError, match="cannot be added"):
        V + layers.double_layer("P0", "P1")
    with pytest.raises(ValueError, match="the product needs shape"):
        V @ x[1:]


def test_far_from_the_origin_nothing_is_lost():
    vertices, triangles = sphere_mesh(1)
    near, far = (LayerOperators(TriangleMesh(vertices + shift, triangles)) for shift in (0.0, 1e6))
    x = np.random.default_rng(0).standard_normal(len(triangles))
    for name in ("single_layer", "adjoint_double_layer"):
        a, b = (getattr(layers, name)() @ x for layers in (near, far))
        assert np.linalg.norm(a - b) < 1e-7 * np.linalg.norm(a)


def test_a_disc_has_its_capacitance_and_its_added_mass():
    # Unit potential takes the charge 8, and W u = 1 has the solution 4/pi sqrt(1 - r²) with the integral 8/3.
    errors = []
    for n in (8, 16):
        mesh = disc_mesh(n)
        layers = LayerOperators(mesh, screen=True)
        charge = np.linalg.solve(layers.single_layer().to_dense(), mesh.areas.numpy()) @ mesh.areas.numpy()
        W = layers.hypersingular()
        loads = layers.mass("P1_0", "P0") @ np.ones(len(mesh))
        errors.append((abs(charge / 8 - 1), abs(np.linalg.solve(W.to_dense(), loads) @ loads * 3 / 8 - 1)))
    assert all(fine < coarse / 1.9 for coarse, fine in zip(*errors, strict=True))
    assert max(errors[1]) < 0.03


def test_what_makes_no_sense_is_refused():
    mesh = TriangleMesh(*sphere_mesh(0))
    layers = LayerOperators(mesh)
    with pytest.raises(ValueError, match="continuous functions"):
        layers.hypersingular("P0")
    with pytest.raises(ValueError, match='a space must be "P0"'):
        layers.mass("P2", "P0")
    with pytest.raises(TypeError, match="kernel must be a fundamental solution"):
        LayerOperators(mesh, Matern())
    with pytest.raises(ConfigError, match="open edges"):
        LayerOperators(TriangleMesh(mesh.vertices, mesh.triangles[1:]))
