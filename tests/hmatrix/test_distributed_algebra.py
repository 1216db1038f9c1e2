"""Multiples, diagonals and products from the left of divided matrices, against dense algebra."""

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.hmatrix import DistributedH2Matrix, H2Matrix, kernels
from pipeline.runtime.communicator import run_in_threads

COVARIANCE = kernels.Matern(nu=0.5, length_scale=0.3)
SKEWED = kernels.Custom(lambda x, y: COVARIANCE(x, y) * (1 + 0.1 * x[..., :1]))
WAVE = kernels.Helmholtz(wavenumber=3.0)
N = 130
RNG = np.random.default_rng(0)
POINTS, X, ADDED = RNG.random((N, 3)), RNG.standard_normal((N, 2)), RNG.random(N)
KINDS = {
    "real": (COVARIANCE, 0.5, np.float64),
    "single": (COVARIANCE, 0.5, np.float32),
    "complex": (WAVE, 20.0, np.float64),
    "not symmetric": (SKEWED, 0.5, np.float64),
}


def own_rows(comm):
    """Return the rows of this process, of which the first has none."""
    edges = np.insert(np.arange(comm.size) * N // max(comm.size - 1, 1), min(1, comm.size - 1), 0)
    return slice(edges[comm.rank], edges[comm.rank + 1]) if comm.size > 1 else slice(0, N)


def with_matrix(name, work, n_processes=3):
    """Return the rows that work(matrix, own rows) gives on processes, and the dense matrix."""
    kernel, diagonal, dtype = KINDS[name]
    points = POINTS.astype(dtype)

    def run(comm):
        own = own_rows(comm)
        A = DistributedH2Matrix.from_kernel(
            points[own],
            kernel,
            comm,
            diagonal=diagonal,
            tolerance=1e-5 if dtype == np.float32 else 1e-8,
            leaf_size=16,
        )
        return work(A, own)

    y = torch.from_numpy(points).double()
    return run_in_threads(n_processes, run), kernel(y, y).numpy() + diagonal * np.eye(N)


def error(rows, expected):
    return np.linalg.norm(np.concatenate(rows) - expected) / np.linalg.norm(expected)


CHANGES = {
    "A * 2": (lambda A, own: A * 2, lambda D: 2 * D),
    "-A / np.float64(3)": (lambda A, own: -A / np.float64(3), lambda D: -D / 3),
    "np.float32(.5) * A": (lambda A, own: np.float32(0.5) * A, lambda D: 0.5 * D),
    "1j * A": (lambda A, own: 1j * A, lambda D: 1j * D),
    "A + 3 I": (lambda A, own: A.add_diagonal(3), lambda D: D + 3 * np.eye(N)),
    "A + an array on one process": (
        lambda A, own: A.add_diagonal(ADDED[own] if A.communicator.rank == 1 else None),
        lambda D: D + np.diag(np.where(np.arange(N) < N // 2, ADDED, 0)),
    ),
    "A + 1j I": (lambda A, own: A.add_diagonal(1j * ADDED[own]), lambda D: D + np.diag(1j * ADDED)),
}


@pytest.mark.parametrize("name", KINDS)
def test_changed_matrices_multiply_solve_and_tell_their_diagonal_as_the_dense_ones_do(name):
    def work(A, own):
        answers = []
        for ours, _ in CHANGES.values():
            changed = ours(A, own)
            F = changed.factorize()
            answers.append(
                (changed @ X[own], changed.diagonal(), F.solve(X[own]), F.slogdet(), changed.dtype)
            )
        return answers

    found, dense = with_matrix(name, work)
    within = 2e-5 if name == "single" else 2e-8
    for (change, (_, theirs)), answers in zip(CHANGES.items(), zip(*found, strict=True), strict=True):
        products, diagonals, solutions, determinants, dtypes = zip(*answers, strict=True)
        expected = theirs(dense)
        assert error(products, expected @ X) <= within, change
        np.testing.assert_allclose(np.concatenate(diagonals), np.diag(expected), rtol=within, atol=within)
        left = np.linalg.norm(expected @ np.concatenate(solutions) - X)
        assert left <= 1e3 * within * np.linalg.norm(X), change
        sign, size = np.linalg.slogdet(expected)
        assert abs(determinants[0][0] - sign) <= 1e3 * within, change
        assert abs(determinants[0][1] - size) <= 1e3 * within * N, change
        single = "complex64" if np.iscomplexobj(expected) else "float32"
        assert set(dtypes) == {np.dtype(single if name == "single" else expected.dtype)}, change


def test_a_multiple_has_as_many_times_the_norm_by_which_tolerances_are_judged():
    found, _ = with_matrix("real", lambda A, _: ((-1000 * A).form.norm, A.form.norm))
    for multiple, norm in found:
        assert multiple == pytest.approx(1000 * norm)


@pytest.mark.parametrize("name", ["real", "complex"])
def test_vectors_multiply_symmetric_matrices_from_the_left(name):
    def work(A, own):
        tensors = torch.from_numpy(X.T[:, own].copy()) @ A
        assert A.T is A
        return np.concatenate([X.T[:, own] @ A, tensors.numpy(), (X[own, 0] @ A)[None]]).T

    found, dense = with_matrix(name, work)
    expected = X.T @ dense
    assert error(found, np.concatenate([expected, expected, expected[:1]]).T) <= 2e-8


def test_a_multiple_is_saved_and_read_by_one_process(tmp_path):
    _, dense = with_matrix("real", lambda A, _: (2.5 * A).add_diagonal(1.0).save(tmp_path))
    found = H2Matrix.load(tmp_path) @ X
    assert error([found], (2.5 * dense + np.eye(N)) @ X) <= 2e-8


REFUSED = [
    (
        lambda A: A @ A,
        TypeError,
        "the product needs numbers in an array or a tensor, not DistributedH2Matrix",
    ),
    (
        lambda A: A + A,
        TypeError,
        r"DistributedH2Matrix\(.* cannot be added .* compress the sum of the kernels",
    ),
    (lambda A: 1 - A, TypeError, "1 cannot be added to or subtracted from a divided matrix"),
    (lambda A: A * A, TypeError, "multiplied and divided by numbers alone, not by DistributedH2Matrix"),
    (lambda A: X * A, TypeError, "multiplied and divided by numbers alone, not by array"),
    (lambda A: A / "2", TypeError, "multiplied and divided by numbers alone, not by '2'"),
    (lambda A: A / np.float64(0), ValueError, "a matrix cannot be divided by 0"),
    (lambda A: A * np.nan, ValueError, "finite factors, not nan"),
    (lambda A: A.add_diagonal(np.ones(N + 1)), ValueError, "diagonal must be a number or shape"),
    (lambda A: A.add_diagonal("a"), TypeError, "diagonal must be numbers"),
]


@pytest.mark.parametrize("alone", [True, False], ids=["on one process", "on all"])
def test_what_divided_matrices_do_not_take_is_refused_on_all_processes(alone):
    def work(A, own):
        for action, kinds, words in REFUSED:
            action_here = action if not alone or A.communicator.rank == 0 else lambda A: A @ X[own]
            with pytest.raises(kinds, match=words):
                action_here(A)
            A.communicator.barrier()

    with_matrix("real", work)


def test_factors_and_numbers_are_the_same_on_all_processes():
    def work(A, _):
        for action in (A.__mul__, A.__truediv__, A.add_diagonal):
            with pytest.raises(ConfigError, match="process 0 passes 1"):
                action(1.0 + A.communicator.rank)
        with pytest.raises(ValueError, match="too large for float64"):
            A * 1e308 * 1e308
        A.communicator.barrier()

    with_matrix("real", work)


def test_a_matrix_that_is_not_symmetric_has_no_transpose():
    def work(A, own):
        for action in (lambda: A.T, lambda: X[own, 0] @ A):
            with pytest.raises(
                ValueError, match=r"only if it is symmetric; compress the kernel k\(y, x\) instead"
            ):
                action()

    with_matrix("not symmetric", work)
