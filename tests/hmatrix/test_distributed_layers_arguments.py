"""What is wrong with one process's arguments for a divided surface ends all of them with one line."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import eye_array
from solids import TETRAHEDRON

from pipeline.data.meshes import sphere_mesh
from pipeline.errors import ConfigError
from pipeline.hmatrix.boundary_elements import LayerOperators, PlaneWave, TriangleMesh, solve_scattering
from pipeline.hmatrix.boundary_elements.problems import solve_dirichlet
from pipeline.hmatrix.distributed import DistributedLayerOperators, solve_distributed_scattering
from pipeline.hmatrix.kernels import Helmholtz, LaplaceSingleLayer
from pipeline.runtime.communicator import Serial, run_in_threads

K = 1.0
VERTICES, TRIANGLES = (np.asarray(part) for part in sphere_mesh(0))
BALL = TriangleMesh(torch.from_numpy(VERTICES), torch.from_numpy(TRIANGLES))
WAVE = PlaneWave(K)


def layers_of(communicator, vertices=VERTICES, triangles=TRIANGLES, kernel=None, **options):
    return DistributedLayerOperators.of(
        vertices, triangles, Helmholtz(K) if kernel is None else kernel, communicator, **options
    )


def ends(work, kind, words, n_processes=3):
    """All processes raise the same kind of error in these words."""

    def all_raise(communicator):
        with pytest.raises(kind, match=words):
            work(communicator)

    run_in_threads(n_processes, all_raise)


def other_on_process(communicator, rank, usual, other):
    return other if communicator.rank == rank else usual


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"tolerance": 1e-4}, ConfigError, "tolerance: process 0 passes 1e-06 and process 1 0.0001"),
        ({"tolerance": 0.0}, ValueError, "tolerance"),
        ({"tolerance": "fine"}, TypeError, "tolerance must be a number"),
        ({"kernel": LaplaceSingleLayer()}, ConfigError, "kernel: process 0 passes"),
        ({"kernel": Helmholtz(1.1)}, ConfigError, "kernel: process 0 passes"),
        ({"kernel": "helmholtz"}, TypeError, "kernel must be a fundamental solution"),
        ({"vertices": 1.01 * VERTICES}, ConfigError, "checksum of vertices: process 0 passes"),
        (
            {"triangles": np.roll(TRIANGLES, 1, axis=0)},
            ConfigError,
            "checksum of triangles: process 0 passes",
        ),
        (
            {"triangles": TRIANGLES[:-1]},
            ConfigError,
            "number of triangles: process 0 passes 20 and process 1 19",
        ),
        ({"triangles": TRIANGLES + 0.5}, TypeError, "triangles of a mesh are whole numbers, not float64"),
        ({"vertices": None}, ValueError, "vertices of a mesh must have the shape"),
        ({"vertices": VERTICES[:, :2]}, ValueError, "vertices of a mesh must have the shape"),
    ],
)
def test_operators_are_refused_on_all_processes_where_one_passes_something_else(options, kind, words):
    ends(lambda c: layers_of(c, **other_on_process(c, 1, {}, options)), kind, words)


def test_one_mesh_may_have_numbers_of_several_types():
    def work(communicator):
        triangles = other_on_process(communicator, 1, TRIANGLES, TRIANGLES.astype(np.uint32))
        vertices = other_on_process(communicator, 0, VERTICES.tolist(), torch.from_numpy(VERTICES))
        return layers_of(communicator, vertices, triangles).single_layer().to_dense()

    found = np.concatenate(run_in_threads(2, work))
    np.testing.assert_allclose(
        found, LayerOperators(BALL, Helmholtz(K)).single_layer().to_dense(), atol=1e-6 * np.abs(found).max()
    )


def test_none_is_no_communicator():
    with pytest.raises(TypeError, match="communicator must be a Communicator"):
        layers_of(None)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"condition": "hard"}, ConfigError, "condition: process 0 passes soft and process 1 hard"),
        ({"condition": "wet"}, ValueError, 'condition must be "soft" or "hard"'),
        ({"tolerance": 1e-3}, ConfigError, "tolerance: process 0 passes"),
        ({"tolerance": float("nan")}, ValueError, "tolerance"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be at least 1"),
        ({"max_iterations": 7}, ConfigError, "max_iterations: process 0 passes"),
        ({"incident": PlaneWave(2.0)}, ConfigError, "the incident wave has 2"),
        ({"incident": PlaneWave(K, (1.0, 0.0, 0.0))}, ConfigError, "incident: process 1 has other values"),
        ({"incident": None}, RuntimeError, "process 1: AttributeError"),
    ],
)
def test_a_solve_is_refused_on_all_processes_where_one_passes_something_else(options, kind, words):
    def work(communicator):
        layers = layers_of(communicator)
        given = {"incident": WAVE} | other_on_process(communicator, 1, {}, options)
        if communicator.rank == 1 and kind is RuntimeError:
            with pytest.raises(AttributeError):
                solve_distributed_scattering(layers, **given)
            raise RuntimeError("process 1: AttributeError")
        solve_distributed_scattering(layers, **given)

    ends(work, kind, words)


class OwnWave:
    """A wave of the user's own that fails on some triangles."""

    def __init__(self, failure):
        self.failure = failure

    def values(self, points):
        return self._failing(points, np.exp(1j * K * points[:, 2]))

    def gradients(self, points):
        return self._failing(
            points, 1j * K * np.exp(1j * K * points[:, 2])[:, None] * np.array([0.0, 0.0, 1.0])
        )

    def _failing(self, points, values):
        return self.failure(values) if (points[:, 2] < -0.7).any() else values


def raised(values):
    raise ValueError("no wave comes from below")


@pytest.mark.parametrize("condition", ["soft", "hard"])
@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (raised, ValueError, "no wave comes from below"),
        (lambda values: values * np.nan, ConfigError, "values given on the surface are NaN"),
        (lambda values: values[:-1], ValueError, "shape"),
        (lambda values: values.astype(str), TypeError, "numbers|multiply"),
    ],
)
def test_a_wave_that_fails_on_one_process_ends_all(failure, kind, words, condition):
    below = VERTICES[TRIANGLES].mean(axis=1)[:, 2] < -0.4
    triangles = np.concatenate([TRIANGLES[~below], TRIANGLES[below]])
    failed = []

    def work(communicator):
        layers = layers_of(communicator, triangles=triangles[::-1])
        try:
            solve_distributed_scattering(layers, OwnWave(failure), condition=condition)
        except BaseException as error:
            failed.append(communicator.rank)
            raise error

    ends(work, kind, words)
    assert sorted(failed) == [0, 1, 2]


def test_a_wave_may_be_real_where_a_process_has_no_triangle():
    class Listed(OwnWave):
        def values(self, points):
            return np.array([np.exp(1j * K * z) for z in points[:, 2]])

    vertices, triangles = TETRAHEDRON
    whole = TriangleMesh(torch.from_numpy(vertices), torch.from_numpy(triangles))
    expected = solve_scattering(whole, WAVE, K, tolerance=1e-8).density

    def work(communicator):
        layers = layers_of(communicator, vertices, triangles, tolerance=1e-8)
        return solve_distributed_scattering(layers, Listed(lambda values: values), tolerance=1e-8).density

    np.testing.assert_allclose(np.concatenate(run_in_threads(5, work)), expected, rtol=1e-5)


def test_directions_are_the_same_on_all_processes():
    def work(communicator, directions):
        found = solve_distributed_scattering(layers_of(communicator), WAVE)
        found.far_field(other_on_process(communicator, 1, np.eye(3), directions))

    for directions, kind, words in (
        (-np.eye(3), ConfigError, "checksum of directions"),
        (np.eye(3)[:2], ConfigError, "number of directions: process 0 passes 3 and process 1 2"),
        (np.zeros((3, 3)), ConfigError, "not all 0"),
    ):
        ends(lambda c, given=directions: work(c, given), kind, words, n_processes=2)


@pytest.mark.parametrize(
    ("verb", "kind", "words"),
    [
        (
            lambda V, rank: V @ np.ones(V.shape[1] + (rank == 1)),
            ValueError,
            "the product needs shape",
        ),
        (lambda V, rank: V @ np.ones((V.shape[1], 1 + rank)), ConfigError, "columns of x: process 0 passes"),
        (lambda V, rank: V @ np.ones(V.shape[1], complex if rank else float), ConfigError, "type of x"),
        (lambda V, rank: V @ torch.ones(V.shape[1], requires_grad=True), TypeError, "requires a gradient"),
        (lambda V, rank: (1.0 + rank) * V, ConfigError, "factor: process 0 passes 1.0 and process 1 2.0"),
        (lambda V, rank: V * (np.nan if rank else 1.0), ValueError, "finite factors"),
        (lambda V, rank: V * ("a" if rank else 1.0), TypeError, "by numbers alone, not by 'a'"),
        (lambda V, rank: V / 0, ZeroDivisionError, "divided by 0"),
        (
            lambda V, rank: V + eye_array(V.shape[0], format="csr"),
            TypeError,
            "cannot be added to or subtracted",
        ),
        (
            lambda V, rank: eye_array(V.shape[0], format="csr") - V,
            TypeError,
            "cannot be added to or subtracted",
        ),
        (lambda V, rank: V + 1.0, TypeError, "1.0 cannot be added"),
    ],
)
def test_verbs_of_operators_are_refused_on_all_processes(verb, kind, words):
    def work(communicator):
        verb(layers_of(communicator).identity(), communicator.rank)

    ends(work, kind, words, n_processes=2)


def test_operators_of_unlike_functions_are_neither_added_nor_have_a_diagonal():
    def summed_with(other):
        def work(communicator):
            layers = layers_of(communicator)
            return layers.identity() + other(communicator, layers)

        return work

    # Another surface of as many triangles, other functions of the same surface, and one that is not divided.
    ends(summed_with(lambda c, layers: layers_of(c).identity()), ValueError, "cannot be added", 2)
    ends(summed_with(lambda c, layers: layers.identity("P1", "P1")), ValueError, "cannot be added", 2)
    ends(
        summed_with(lambda c, layers: LayerOperators(BALL, Helmholtz(K)).identity()),
        ValueError,
        "be added",
        1,
    )
    ends(lambda c: layers_of(c).identity("P0", "P1").scaling(), ValueError, "has no diagonal", 3)


def test_linear_functions_that_vanish_on_no_edge_are_the_same_as_all():
    def work(communicator):
        layers = layers_of(communicator)
        assert layers.hypersingular().test is layers.identity("P1", "P1").test
        return (layers.hypersingular() - layers.identity("P1", "P1_0")).to_dense()

    whole = LayerOperators(BALL, Helmholtz(K))
    expected = whole.hypersingular().to_dense() - whole.mass("P1", "P1").toarray()
    found = np.concatenate(run_in_threads(3, work))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_what_needs_the_whole_surface_says_what_to_take_instead():
    def refused(communicator):
        layers = layers_of(communicator)
        with pytest.raises(TypeError, match=r"identity\(test, trial\)"):
            layers.mass()
        with pytest.raises(TypeError, match="solve_distributed_scattering"):
            layers.diagnosis.require_usable()
        with pytest.raises(TypeError, match="solve_distributed_scattering"):
            solve_scattering(layers.mesh, WAVE, K, screen=False, operators=layers)
        with pytest.raises(TypeError, match="solve_distributed_scattering"):
            solve_dirichlet(layers.mesh, WAVE.values, operators=layers)
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            for value in (layers, layers.identity()):
                with pytest.raises(TypeError, match="cannot be pickled or copied"):
                    copied(value.test if copied is copy.copy and value is not layers else value)

    run_in_threads(2, refused)
    with pytest.raises(TypeError, match=r"the result of DistributedLayerOperators\.of"):
        solve_distributed_scattering(LayerOperators(BALL, Helmholtz(K)), WAVE)
    with pytest.raises(ConfigError, match="waves need those of Helmholtz"):
        solve_distributed_scattering(layers_of(Serial(), kernel=LaplaceSingleLayer()), PlaneWave(0.0))


def test_replaced_options_are_not_those_of_operators_made_before():
    layers = layers_of(Serial(), tolerance=1e-2)
    layers.single_layer()
    again = replace(layers, tolerance=1e-9).single_layer().to_dense()
    exact = LayerOperators(BALL, Helmholtz(K), tolerance=1e-9).single_layer().to_dense()
    np.testing.assert_allclose(again, exact, atol=1e-8 * np.abs(exact).max())
    other = replace(LayerOperators(BALL), mesh=TriangleMesh(BALL.vertices, BALL.triangles.flip(0)))
    assert other.n("P0") == len(TRIANGLES)


@pytest.mark.parametrize("tolerance", [float("nan"), 0.0])
def test_a_tolerance_that_none_reaches_is_refused_with_operators_of_before(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        solve_scattering(BALL, WAVE, K, tolerance=tolerance, operators=LayerOperators(BALL, Helmholtz(K)))


def test_processes_that_call_unlike_methods_end():
    def work(communicator):
        layers = layers_of(communicator)
        if communicator.rank == 0:
            layers.single_layer()
        solve_distributed_scattering(layers, WAVE)

    ends(work, ConfigError, "call the same methods in the same order", 2)
