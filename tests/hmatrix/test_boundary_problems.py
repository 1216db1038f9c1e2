"""Boundary value problems and scattering with known answers, whose errors fall at the expected rates."""

import math

import numpy as np
import pytest
from scipy.special import eval_legendre, spherical_jn, spherical_yn

from pipeline.data.meshes import cube_mesh, sphere_mesh, torus_mesh
from pipeline.errors import ConfigError
from pipeline.hmatrix.boundary_elements import (
    LayerOperators,
    PlaneWave,
    PointSource,
    TriangleMesh,
    solve_dirichlet,
    solve_neumann,
    solve_scattering,
)
from pipeline.hmatrix.boundary_elements.potentials import inside
from pipeline.hmatrix.kernels import Helmholtz, LaplaceSingleLayer, Yukawa

TOWARDS = np.random.default_rng(0).standard_normal((12, 3))
TOWARDS /= np.linalg.norm(TOWARDS, axis=1, keepdims=True)


def source_field(k, place):
    """Return the field of a point source and its derivatives along normals: both are known everywhere else."""

    def values(points):
        r = np.linalg.norm(points - place, axis=1)
        field = np.exp(1j * k * r) / (4 * np.pi * r)
        return field if k.real else field.real

    def derivatives(points, normals):
        away = points - place
        r = np.linalg.norm(away, axis=1)
        slope = values(points) * (1j * k - 1 / r) / r
        return (slope if k.real else slope.real) * (away * normals).sum(axis=1)

    return values, derivatives


def relative(found, exact):
    return np.abs(found - exact).max() / np.abs(exact).max()


def test_screened_fields_inside_and_outside_of_a_sphere_converge_as_squares():
    k = 1.5j
    errors = []
    for refinements in (1, 2):
        mesh = TriangleMesh(*sphere_mesh(refinements))
        layers = LayerOperators(mesh, Yukawa(1.5))
        row = []
        for side, place, points in (
            ("interior", np.array([0, 0.5, 2.0]), 0.4 * TOWARDS),
            ("exterior", np.array([0.2, 0.1, -0.3]), 2.2 * TOWARDS),
        ):
            values, derivatives = source_field(k, place)
            exact = values(points)
            row.append(relative(solve_dirichlet(mesh, values, side=side, operators=layers)(points), exact))
            t = derivatives(mesh.centroids.numpy(), mesh.normals.numpy())
            row.append(relative(solve_neumann(mesh, t, side=side, operators=layers)(points), exact))
        errors.append(row)
    coarse, fine = np.array(errors)
    assert (fine < 0.05).all()
    assert (fine < coarse / 3).all()  # squares fall by four


RING = np.linspace(0, 2 * np.pi, 12, endpoint=False)
# Two meshes, the finer one of half the width; points inside; places of a source outside and inside.
SOLIDS = {
    "cube": ([cube_mesh(2), cube_mesh(4)], 0.5 + 0.2 * TOWARDS, (1.8, 0.2, 0.6), (0.4, 0.6, 0.5)),
    "torus": (
        [torus_mesh(12, 7), torus_mesh(24, 14)],
        np.stack([np.cos(RING), np.sin(RING), 0 * RING], axis=1),
        (0.1, 0.2, 1.2),
        (1.0, 0.1, 0.05),
    ),
}
# Away from resonances: Neumann's problem inside the torus has some near every whole number. Screened fields, which have
# neither its constants nor its resonances, are those of the sphere above.
FIELDS_AND_WAVES = {"cube": (0j, 2 + 0j), "torus": (0j,)}


def kernel_of(k):
    return Helmholtz(k.real) if k.real else Yukawa(k.imag) if k else LaplaceSingleLayer()


@pytest.mark.parametrize(
    ("name", "k"), [(name, k) for name, all_k in FIELDS_AND_WAVES.items() for k in all_k], ids=str
)
def test_fields_inside_and_outside_of_a_cube_and_a_torus_converge_at_their_rates(name, k):
    """Errors of a field are products of two errors of approximation, that of the density and that of the adjoint's.

    Where the density is the trace of a smooth field, it errs by h^(3/2) in the energy norm. The adjoint's has the
    singularity r^(-1/3) of a charge or r^(2/3) of a potential at the cube's edges, and errs by h^(2/3). The product is
    less than the h^2 of the interpolated data and of the torus's flat triangles. The combined layer outside for waves
    has a density of its own: on a cube it is singular as r^(2/3) and errs by h in the mean square, its adjoint by
    h^(1/6).
    """
    meshes, within, outer, inner = SOLIDS[name]
    center = 0.5 if name == "cube" else 0.0
    errors = []
    for vertices, triangles in meshes:
        mesh = TriangleMesh(vertices, triangles)
        layers = LayerOperators(mesh, kernel_of(k))
        row = []
        for side, place, points in (
            ("interior", outer, within),
            ("exterior", inner, center + 2.5 * TOWARDS),
        ):
            values, derivatives = source_field(k, np.array(place))
            exact = values(points)
            row.append(relative(solve_dirichlet(mesh, values, side=side, operators=layers)(points), exact))
            t = derivatives(mesh.centroids.numpy(), mesh.normals.numpy())
            constant = k == 0 and side == "interior"
            if constant:
                areas = mesh.areas.numpy()
                t = t - t @ areas / areas.sum()
            found = solve_neumann(mesh, t, side=side, operators=layers)(points)
            shift = found.mean() - exact.mean() if constant else 0
            row.append(relative(found - shift, exact))
        errors.append(row)
    rates = np.log2(np.array(errors[0]) / np.array(errors[1]))
    expected = np.array([2.0, 2.0, 2.0, 2.0])
    if name == "cube" and k.real:
        expected[2] = 7 / 6
    # The mean of the rate and of the next lower half order tells one from the other.
    assert (rates > expected - 0.5).all(), rates
    assert max(errors[1]) < 0.05


def mie(k, cosine, condition):
    """Return the far field of the unit sphere in a plane wave, by the series in spherical harmonics."""
    n = np.arange(int(k) + 12)
    slope = condition == "hard"
    j = spherical_jn(n, k, slope)
    h = j + 1j * spherical_yn(n, k, slope)
    return 1j / k * sum((2 * m + 1) * j[m] / h[m] * eval_legendre(m, cosine) for m in n)


@pytest.mark.parametrize("condition", ["soft", "hard"])
def test_scattering_at_a_sphere_is_mies_at_a_resonant_wavenumber(condition):
    k = math.pi
    # Dirichlet's problem inside the unit sphere has its first resonance at pi: V and 1/2 - K alone are singular there.
    errors = []
    for refinements in (1, 2):
        mesh = TriangleMesh(*sphere_mesh(refinements))
        result = solve_scattering(mesh, PlaneWave(k, (1.0, 2.0, 2.0)), k, condition=condition)
        cosine = TOWARDS @ np.array([1, 2, 2]) / 3
        errors.append(relative(result.far_field(TOWARDS), mie(k, cosine, condition)))
    assert errors[1] < errors[0] / 3
    assert errors[1] < 0.05
    assert result.scattered.info.iterations < 15
    # Far away the field is the far field's.
    r = 300.0
    field = result.scattered(r * TOWARDS[:3]) * r * np.exp(-1j * k * r)
    assert relative(field, result.far_field(TOWARDS[:3])) < 2e-2


def test_the_single_layer_alone_fails_at_the_resonance():
    mesh = TriangleMesh(*sphere_mesh(1))
    conditions = []
    # The resonance of this inscribed polyhedron is a little higher than pi, that of the sphere.
    for k in math.pi * np.array([1.04, 1.05, 1.06]):
        layers = LayerOperators(mesh, Helmholtz(k))
        V = layers.single_layer()
        combined = layers.adjoint_double_layer() + 0.5 * layers.mass() - 1j * k * V
        conditions.append([np.linalg.cond(A.to_dense()) for A in (V, combined)])
    alone, together = np.max(conditions, axis=0)
    assert alone > 40 * together


def test_total_fields_vanish_on_a_soft_sphere_and_are_told_outside_alone():
    mesh = TriangleMesh(*sphere_mesh(2))
    k = 2.0
    result = solve_scattering(mesh, PointSource(k, (0.0, 0.0, 3.0)), k)
    total = result.total(np.concatenate([1.1 * TOWARDS, 0.5 * TOWARDS]))
    n = len(TOWARDS)
    assert np.isnan(total[n:]).all()
    # It grows linearly from the surface on, with the density as its slope.
    nearest = np.argmax(TOWARDS @ mesh.centroids.numpy().T, axis=1)
    assert relative(total[:n], 0.1 * result.density[nearest]) < 0.3


@pytest.mark.parametrize("condition", ["soft", "hard"])
def test_a_screen_scatters_alike_from_both_sides(condition):
    grid = np.linspace(-1, 1, 9)
    x, y = (part.ravel() for part in np.meshgrid(grid, grid, indexing="ij"))
    corner = (np.arange(8)[:, None] * 9 + np.arange(8)).ravel()
    triangles = np.concatenate(
        [
            np.stack([corner, corner + 9, corner + 10], axis=1),
            np.stack([corner, corner + 10, corner + 1], axis=1),
        ]
    )
    mesh = TriangleMesh(np.stack([x, y, 0 * x], axis=1), triangles)
    k = 2.0
    result = solve_scattering(mesh, PlaneWave(k, (0.0, 0.6, 0.8)), k, condition=condition)
    mirrored = [result.scattered(abs(TOWARDS) * [2, 2, sign] + [0, 0, sign]) for sign in (1, -1)]
    expected = mirrored[0] if condition == "soft" else -mirrored[0]
    np.testing.assert_allclose(mirrored[1], expected, rtol=1e-8)
    # The optical theorem: what is taken from the wave is what flows away.
    nodes, weights = np.polynomial.legendre.leggauss(16)
    phi = np.arange(32) * 2 * np.pi / 32
    ring = np.sqrt(1 - nodes**2)
    directions = np.stack(
        [np.outer(ring, np.cos(phi)), np.outer(ring, np.sin(phi)), np.outer(nodes, np.ones(32))], axis=-1
    ).reshape(-1, 3)
    power = np.abs(result.far_field(directions)) ** 2 @ np.repeat(weights * 2 * np.pi / 32, 32)
    forward = result.far_field([[0.0, 0.6, 0.8]])[0]
    assert power == pytest.approx(4 * np.pi / k * forward.imag, rel=1e-3)


def test_a_closed_surface_tells_inside_from_outside():
    mesh = TriangleMesh(*torus_mesh(16, 8))
    points = np.array([[0, 0, 0], [1.0, 0, 0], [0, -1.0, 0.1], [0, 0, 1.0], [0, 2.0, 0]])
    assert inside(mesh, points).tolist() == [False, True, True, False, False]


def test_points_on_the_surface_coarse_meshes_and_open_bodies_are_refused():
    mesh = TriangleMesh(*sphere_mesh(1))
    solution = solve_dirichlet(mesh, np.ones(len(mesh.vertices)))
    np.testing.assert_allclose(solution(0.5 * TOWARDS), 1.0, rtol=1e-4)
    with pytest.raises(ConfigError, match="1 of 2 points is nearer to the surface than a quarter"):
        solution([[0, 0, 0.0], mesh.centroids[3].tolist()])
    with pytest.raises(ConfigError, match="at least 3 triangles for each wavelength are needed"):
        solve_scattering(mesh, PlaneWave(10.0), 10.0)
    with pytest.raises(ConfigError, match="open edges"):
        solve_dirichlet(TriangleMesh(mesh.vertices, mesh.triangles[1:]), np.ones(len(mesh.vertices)))
    with pytest.raises(ConfigError, match="subtract the mean of the derivatives"):
        solve_neumann(mesh, np.ones(len(mesh)))
    with pytest.raises(ValueError, match="values must be one for each of 42 vertices"):
        solve_dirichlet(mesh, np.ones(3))
    with pytest.raises(ValueError, match='side must be "interior" or "exterior"'):
        solve_dirichlet(mesh, np.ones(42), side="left")
    with pytest.raises(ValueError, match='condition must be "soft" or "hard"'):
        solve_scattering(mesh, PlaneWave(1.0), 1.0, condition="firm")
    with pytest.raises(ConfigError, match=r"the incident wave has 1\.0 and the problem 2\.0"):
        solve_scattering(mesh, PlaneWave(1.0), 2.0)
    with pytest.raises(ConfigError, match="NaN or infinite"):
        solve_dirichlet(mesh, np.full(42, np.nan))
    with pytest.raises(ConfigError, match="direction must be three numbers that are not all 0"):
        PlaneWave(1.0, (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="another mesh"):
        solve_dirichlet(mesh, np.ones(42), operators=LayerOperators(TriangleMesh(*sphere_mesh(0))))


def test_meshes_coarse_beside_the_wavelength_are_noted():
    mesh = TriangleMesh(*sphere_mesh(1))
    result = solve_scattering(mesh, PlaneWave(2.5), 2.5)
    assert "less than 6 triangles for each wavelength" in result.notes[0]
