"""Layer operators and scattering on divided triangles against those of one process."""

import numpy as np
import pytest
import torch
from solids import TETRAHEDRON

from pipeline.data.meshes import sphere_mesh
from pipeline.errors import ConfigError
from pipeline.hmatrix.boundary_elements import LayerOperators, PlaneWave, TriangleMesh, solve_scattering
from pipeline.hmatrix.distributed import DistributedLayerOperators, solve_distributed_scattering
from pipeline.hmatrix.kernels import Helmholtz, LaplaceSingleLayer
from pipeline.runtime.communicator import run_in_threads

K, PRECISE = 1.5, 1e-9
SPHERE = sphere_mesh(1)


def plate(n=7):
    """Return a square of 2 (n - 1)² triangles with open edges."""
    x, y = (part.ravel() for part in np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n), indexing="ij"))
    corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    triangles = np.concatenate(
        [np.stack([corner, corner + n, corner + n + 1], 1), np.stack([corner, corner + n + 1, corner + 1], 1)]
    )
    return np.stack([x, y, 0 * x], 1), triangles


def mesh_of(vertices, triangles):
    return TriangleMesh(torch.as_tensor(vertices), torch.as_tensor(triangles))


def operators_of(layers):
    """Return operators of all kinds that equations of scattering take, by name."""
    closed = {
        "V": layers.single_layer(),
        "V linear": layers.single_layer("P1", "P0"),
        "K": layers.double_layer("P1", "P1"),
        "K'": layers.adjoint_double_layer(),
        "K transposed": layers.double_layer("P0", "P1").T,
        "W": layers.hypersingular("P1"),
        "mass": layers.identity("P1", "P1"),
        "combined": 2j * layers.adjoint_double_layer() + 0.5 * layers.identity() - layers.single_layer(),
    }
    return {"W of a screen": layers.hypersingular()} if layers.screen else closed


def diagonal_of(A):
    """Return the diagonal of the near field, if test and trial functions are the same."""
    return A.scaling() if A.test is A.trial or A.test == A.trial else np.zeros(0)


def vectors(n):
    rng = np.random.default_rng(n)
    return rng.standard_normal((n, 2)) + 1j * rng.standard_normal((n, 2))


@pytest.mark.parametrize(
    ("surface", "n_processes", "kernel"),
    [
        *((*case, Helmholtz(K)) for case in (("sphere", 1), ("sphere", 3), ("plate", 2))),
        ("sphere", 3, LaplaceSingleLayer()),
        ("plate", 2, LaplaceSingleLayer()),
    ],
)
def test_products_and_diagonals_are_those_of_the_whole_surface(surface, n_processes, kernel):
    vertices, triangles = {"sphere": SPHERE, "plate": plate()}[surface]
    whole = LayerOperators(mesh_of(vertices, triangles), kernel, tolerance=PRECISE, screen=surface == "plate")
    wanted = {name: (A.to_dense(), diagonal_of(A)) for name, A in operators_of(whole).items()}

    def work(communicator):
        layers = DistributedLayerOperators.of(
            np.asarray(vertices), np.asarray(triangles), kernel, communicator, tolerance=PRECISE
        )
        assert layers.screen == whole.screen
        found = {}
        for name, A in operators_of(layers).items():
            x = vectors(wanted[name][0].shape[1])
            first = sum(
                int(n) for n in communicator.all_gather(torch.tensor([A.shape[1]]))[: communicator.rank]
            )
            found[name] = A @ x[first : first + A.shape[1]], diagonal_of(A)
        return found

    parts = run_in_threads(n_processes, work)
    for name, (dense, diagonal) in wanted.items():
        y = np.concatenate([part[name][0] for part in parts])
        expected = dense @ vectors(dense.shape[1])
        assert np.linalg.norm(y - expected) <= 10 * PRECISE * np.linalg.norm(expected), name
        np.testing.assert_allclose(np.concatenate([part[name][1] for part in parts]), diagonal, rtol=1e-10)


@pytest.mark.parametrize("condition", ["soft", "hard"])
@pytest.mark.parametrize("surface", ["sphere", "plate"])
def test_a_divided_surface_scatters_as_the_whole_one(surface, condition):
    vertices, triangles = {"sphere": SPHERE, "plate": plate()}[surface]
    wave = PlaneWave(K, (1.0, 2.0, -2.0))
    directions = np.random.default_rng(0).standard_normal((20, 3))
    expected = solve_scattering(mesh_of(vertices, triangles), wave, K, condition=condition, tolerance=1e-8)

    def work(communicator):
        layers = DistributedLayerOperators.of(
            np.asarray(vertices), np.asarray(triangles), Helmholtz(K), communicator, tolerance=1e-8
        )
        found = solve_distributed_scattering(layers, wave, condition=condition, tolerance=1e-8)
        return found.density, found.far_field(directions), found.info.iterations

    parts = run_in_threads(3, work)
    density = np.concatenate([part[0] for part in parts])
    assert np.linalg.norm(density - expected.density) <= 1e-5 * np.linalg.norm(expected.density)
    far = expected.far_field(directions)
    for _, found, iterations in parts:
        assert np.abs(found - far).max() <= 1e-6 * np.abs(far).max()
        assert abs(iterations - expected.scattered.info.iterations) <= 1


@pytest.mark.parametrize("condition", ["soft", "hard"])
def test_vertices_in_single_precision_scatter_as_in_double(condition):
    vertices, triangles = (np.asarray(part) for part in sphere_mesh(0))
    wave = PlaneWave(0.5)
    far = solve_scattering(mesh_of(vertices, triangles), wave, 0.5, condition=condition).far_field(np.eye(3))
    single = mesh_of(vertices.astype(np.float32), triangles)
    found = [solve_scattering(single, wave, 0.5, condition=condition).far_field(np.eye(3))]

    def work(communicator):
        layers = DistributedLayerOperators.of(single.vertices, triangles, Helmholtz(0.5), communicator)
        return solve_distributed_scattering(layers, wave, condition=condition).far_field(np.eye(3))

    # Both solves are within 1e-5, and corners within 1e-7.
    for field in found + run_in_threads(2, work):
        assert np.abs(field - far).max() <= 1e-4 * np.abs(far).max()


def test_more_processes_than_triangles_are_of_no_harm():
    vertices, triangles = TETRAHEDRON
    wave = PlaneWave(0.5)
    expected = solve_scattering(mesh_of(vertices, triangles), wave, 0.5, tolerance=1e-8)

    def work(communicator):
        layers = DistributedLayerOperators.of(
            vertices, triangles, Helmholtz(0.5), communicator, tolerance=1e-8
        )
        return solve_distributed_scattering(layers, wave, tolerance=1e-8).density

    density = np.concatenate(run_in_threads(7, work))
    np.testing.assert_allclose(density, expected.density, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "wavenumber", "words"),
    [
        (lambda v, t: (v, t[:, ::-1]), K, "closed part whose normals point inwards"),
        (lambda v, t: (v, t), 12.0, "at least 3 triangles for each wavelength"),
    ],
)
def test_what_is_wrong_with_a_surface_ends_all_processes_with_one_line(change, wavenumber, words):
    vertices, triangles = change(*(np.asarray(part) for part in SPHERE))

    def work(communicator):
        with pytest.raises(ConfigError, match=words):
            DistributedLayerOperators.of(vertices, triangles, Helmholtz(wavenumber), communicator)

    run_in_threads(2, work)


def test_a_wave_of_another_length_is_refused():
    def work(communicator):
        layers = DistributedLayerOperators.of(
            *(np.asarray(part) for part in SPHERE), Helmholtz(K), communicator
        )
        with pytest.raises(ConfigError, match="the incident wave has 2"):
            solve_distributed_scattering(layers, PlaneWave(2.0))
        with pytest.raises(ValueError, match="condition must be"):
            solve_distributed_scattering(layers, PlaneWave(K), condition="wet")

    run_in_threads(2, work)


@pytest.mark.parametrize(("n", "n_processes"), [(8, 3), (11, 7)])
def test_both_processes_of_a_pair_know_whether_it_is_near_where_rounding_decides(n, n_processes):
    vertices, triangles = plate(n)
    vertices = vertices + np.array([17.3, -5.1, 2.2])
    mesh = mesh_of(vertices, triangles)
    whole = LayerOperators(mesh, LaplaceSingleLayer(), screen=True)
    wanted = {tuple(pair) for pair in whole._near_pairs().sort(dim=0).values.T.tolist()}

    def work(communicator):
        layers = DistributedLayerOperators.of(vertices, triangles, LaplaceSingleLayer(), communicator)
        numbers = torch.from_numpy(layers.numbers)
        own = set(layers.numbers[: layers.n_own].tolist())
        found = {tuple(pair) for pair in numbers[layers._near_pairs()].sort(dim=0).values.T.tolist()}
        return found, {pair for pair in wanted if own & set(pair)}

    for found, known in run_in_threads(n_processes, work):
        assert found == known


def bytes_of(layers):
    """Return the bytes of what a process knows of a surface, matrices of far triangles left aside."""
    layers.identity("P1", "P0"), layers.identity("P1_0", "P1_0")
    single, double = layers._integrals.single, layers._integrals.double
    arrays = [layers.mesh.vertices.numpy(), layers.mesh.triangles.numpy(), layers.numbers, layers.vertices]
    arrays += [
        part for A in (single, double, *layers._spaces.values()) for part in (A.data, A.indices, A.indptr)
    ]
    arrays += [part for known in layers._known.values() for part in (known.known, *known.halo.asked.values())]
    return sum(array.nbytes for array in arrays)


def test_what_a_process_knows_of_a_surface_stays_as_the_surface_grows_with_the_processes():
    def largest(n_processes):
        x, y = (
            part.ravel() for part in np.meshgrid(np.arange(8 * n_processes + 1), np.arange(4), indexing="ij")
        )
        corner = (np.arange(8 * n_processes)[:, None] * 4 + np.arange(3)).ravel()
        triangles = np.stack([corner, corner + 4, corner + 5, corner, corner + 5, corner + 1], 1).reshape(
            -1, 3
        )
        vertices = np.stack([x, y, 0 * x], 1).astype(float)

        def work(communicator):
            return bytes_of(
                DistributedLayerOperators.of(vertices, triangles, LaplaceSingleLayer(), communicator)
            )

        return max(run_in_threads(n_processes, work))

    assert largest(8) <= 1.03 * largest(4)
