import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix import DistributedH2Matrix, H2Matrix, kernels
from pipeline.runtime.communicator import Serial, run_in_threads

COVARIANCE = kernels.Matern(nu=0.5, length_scale=0.3)
SKEWED = kernels.Custom(lambda x, y: COVARIANCE(x, y) * (1 + 0.1 * x[..., :1]))
CASES = {
    "square": (2, COVARIANCE, {"diagonal": 0.1}),
    "cube": (3, COVARIANCE, {"diagonal": 0.1, "tolerance": 1e-4}),
    "line": (1, COVARIANCE, {"admissibility": "weak"}),
    "two length scales": (2, kernels.Matern(nu=1.5, length_scale=(0.1, 0.5)), {"tolerance": 1e-8}),
    "wave": (3, kernels.Helmholtz(wavenumber=4.0), {"diagonal": 1.0j}),
    "complex diagonal": (2, COVARIANCE, {"diagonal": 2.0 + 1.0j}),
    "not symmetric": (2, SKEWED, {}),
    "many dimensions": (8, kernels.SquaredExponential(length_scale=3.0), {}),
}


def edges_of(n, n_processes, rng):
    """Split rows anyhow, with a process that has none."""
    inner = np.sort(rng.integers(0, n + 1, max(n_processes - 2, 0)))
    return np.concatenate([[0], inner, [n] * min(n_processes, 2)])[: n_processes + 1]


def build_together(points, kernel, n_processes, work, **options):
    """Call work(matrix, own rows) on processes that share the points, and return its results."""
    edges = edges_of(len(points), n_processes, np.random.default_rng(3))

    def run(comm):
        own = slice(edges[comm.rank], edges[comm.rank + 1])
        return work(DistributedH2Matrix.from_kernel(points[own], kernel, comm, leaf_size=16, **options), own)

    return run_in_threads(n_processes, run)


# Kernels and types go through the same exchanges whatever the number of processes.
@pytest.mark.parametrize(
    ("name", "n_processes"), [*((name, 5) for name in CASES), ("square", 1), ("not symmetric", 2)]
)
def test_products_are_those_of_the_serial_matrix(name, n_processes):
    dimension, kernel, options = CASES[name]
    rng = np.random.default_rng(0)
    points, x = rng.random((300, dimension)), rng.standard_normal((300, 3))
    expected = H2Matrix.from_kernel(points, kernel, leaf_size=16, **options) @ x
    found = np.concatenate(build_together(points, kernel, n_processes, lambda A, own: A @ x[own], **options))
    assert found.dtype == expected.dtype
    tolerance = options.get("tolerance", 1e-6)
    # Both are within the tolerance of the same exact product.
    assert np.linalg.norm(found - expected) <= 2 * tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("n", [0, 1, 3, 17])
def test_processes_may_outnumber_leaves_and_points(n):
    rng = np.random.default_rng(0)
    points, x = rng.random((n, 2)), rng.standard_normal(n)
    found = np.concatenate(build_together(points, COVARIANCE, 7, lambda A, own: A @ x[own], diagonal=0.5))
    y = torch.from_numpy(points)
    np.testing.assert_allclose(found, (COVARIANCE(y, y).numpy() + 0.5 * np.eye(n)) @ x, rtol=1e-5, atol=1e-12)


def test_duplicates_across_the_seam_and_single_precision_are_taken():
    rng = np.random.default_rng(0)
    points = np.repeat(rng.random((60, 2)), 5, axis=0)[rng.permutation(300)].astype(np.float32)
    x = torch.from_numpy(rng.standard_normal(300)).float()
    found = build_together(points, COVARIANCE, 4, lambda A, own: A @ x[own], diagonal=0.1, tolerance=1e-5)
    y = torch.from_numpy(points)
    expected = COVARIANCE(y, y) @ x + 0.1 * x
    assert all(part.dtype == torch.float32 for part in found)
    assert torch.linalg.norm(torch.cat(found) - expected) <= 2e-5 * torch.linalg.norm(expected)


def test_complex_vectors_go_through_a_real_matrix():
    rng = np.random.default_rng(0)
    points = rng.random((300, 2))
    x = rng.standard_normal(300) + 1j * rng.standard_normal(300)
    found = np.concatenate(build_together(points, COVARIANCE, 2, lambda A, own: A @ x[own]))
    expected = H2Matrix.from_kernel(points, COVARIANCE, leaf_size=16) @ x
    assert np.linalg.norm(found - expected) <= 2e-6 * np.linalg.norm(expected)


def test_the_error_is_estimated_alike_everywhere_and_keeps_the_tolerance():
    points = np.random.default_rng(0).random((600, 2))
    errors = build_together(points, COVARIANCE, 3, lambda A, _: A.error_estimate(seed=5), tolerance=1e-4)
    assert len(set(errors)) == 1
    assert 0 < errors[0] <= 1e-4


def largest_share(n_processes):
    """Return the most bytes that a process holds of the matrix of 2,000 points each."""
    points = np.random.default_rng(0).random((2000 * n_processes, 1))

    def run(comm):
        own = np.array_split(points, n_processes)[comm.rank]
        A = DistributedH2Matrix.from_kernel(own, COVARIANCE, comm)
        return A.n_bytes

    return max(run_in_threads(n_processes, run))


def test_bytes_of_a_process_stay_where_points_grow_with_the_processes():
    """On a line, where every inner process has two neighbors, however many there are."""
    assert largest_share(12) <= 1.15 * largest_share(4)


def test_statistics_tell_of_every_process():
    points = np.random.default_rng(0).random((400, 2))
    found = build_together(points, COVARIANCE, 3, lambda A, _: (A.statistics(), A.n_bytes, repr(A)))
    statistics = found[0][0]
    assert all(table == statistics for table, _, _ in found)
    assert sum(statistics["rows"]) == 400
    assert statistics["n_bytes"] == [n_bytes for _, n_bytes, _ in found]
    assert "400 x 400 float64, Matern, tolerance 1e-06, process 0 of 3" in found[0][2]


def test_a_linear_operator_has_the_own_rows():
    points = np.random.default_rng(0).random((200, 2))
    A = DistributedH2Matrix.from_kernel(points, COVARIANCE, Serial(), leaf_size=16)
    np.testing.assert_array_equal(A.as_linear_operator() @ np.ones(200), A @ np.ones(200))


BAD = {
    "another tolerance": ({}, {"tolerance": 1e-5}, r"tolerance: process 0 passes 1e-06 and process 2 1e-05"),
    "another kernel": ({}, {"kernel": kernels.Matern(nu=1.5)}, r"kernel: process 0 passes .* and process 2"),
    "another type": (
        {},
        {"points": np.zeros((3, 2), np.float32)},
        r"dtype: process 0 passes float64 and process 2",
    ),
    "another dimension": (
        {},
        {"points": np.zeros((3, 3))},
        r"number of coordinates: process 0 passes 2 and process 2 3",
    ),
    "NaN": ({}, {"points": np.full((3, 2), np.nan)}, r"own_points: point 0 has a coordinate that is NaN"),
    "no kernel": ({}, {"kernel": "matern"}, r"kernel must be one of"),
    "a diagonal of another length": ({}, {"diagonal": np.ones(7)}, r"diagonal must be a number or shape"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_on_one_process_is_said_on_all(name):
    _, wrong, text = BAD[name]
    points = np.random.default_rng(0).random((90, 2))

    def work(comm):
        given = {"points": points[comm.rank :: 3], "kernel": COVARIANCE, "tolerance": 1e-6, "diagonal": 0.1}
        given |= wrong if comm.rank == 2 else {}
        with pytest.raises((ConfigError, TypeError, ValueError), match=text) as failure:
            DistributedH2Matrix.from_kernel(given.pop("points"), given.pop("kernel"), comm, **given)
        return str(failure.value)

    lines = run_in_threads(3, work)
    assert all("\n" not in line for line in lines)


def test_a_kernel_that_is_nan_is_refused_on_all_processes():
    broken = kernels.Custom(lambda x, y: torch.full((len(x), len(y)), torch.nan), symmetric=True)
    points = np.random.default_rng(0).random((200, 2))

    def work(comm):
        with pytest.raises(ConvergenceError, match="NaN or infinite"):
            DistributedH2Matrix.from_kernel(points[comm.rank :: 2], broken, comm, leaf_size=16)

    run_in_threads(2, work)


def test_a_vector_of_another_length_on_one_process_is_refused_on_all():
    points = np.random.default_rng(0).random((100, 2))

    def work(comm):
        A = DistributedH2Matrix.from_kernel(points[comm.rank :: 2], COVARIANCE, comm, leaf_size=16)
        with pytest.raises(ValueError, match=r"the product needs shape \(50,\) or \(50, m\), not \(49,\)"):
            A @ np.ones(50 - comm.rank)
        with pytest.raises(ConfigError, match=r"columns of x: process 0 passes \[\] and process 1 \[1\]"):
            A @ np.ones((50, 1) if comm.rank else 50)

    run_in_threads(2, work)
