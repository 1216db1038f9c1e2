"""Factorizations by color in batches against native ones and dense matrices, on a GPU if there is one."""

import numpy as np
import pytest
import torch
from devices import BATCHES, Answers, OnOneDevice
from scipy.sparse import csr_array

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import H2Matrix, Strong, Weak, kernels
from pipeline.hmatrix.batched import bucket, compression, padding
from pipeline.hmatrix.batched.coloring import colors, within_two_steps
from pipeline.hmatrix.batched.kernel import DeviceKernel
from pipeline.hmatrix.factor import factorize

N = 450
COVARIANCE = kernels.Matern(nu=0.5, length_scale=0.2)
SKEWED = kernels.Custom(lambda x, y: COVARIANCE(x, y) * (1 + 0.3 * x[..., :, None, 0]))
WAVE = kernels.Helmholtz(wavenumber=3.0)
SKEWED_WAVE = kernels.Custom(lambda x, y: WAVE(x, y) * (1 + 0.3 * x[..., :, None, 0]), is_complex=True)


@pytest.fixture(autouse=True)
def _several_levels(monkeypatch):
    monkeypatch.setattr("pipeline.hmatrix.factor._DENSE_END", 40)


def points_of(name, n=N):
    generator = np.random.default_rng(0)
    if name == "clusters":
        centers = generator.random((8, 2))
        scatter = 10 ** generator.uniform(-5, -1, (n, 1)) * generator.standard_normal((n, 2))
        return centers[generator.integers(0, 8, n)] + scatter
    return generator.random((n, {"line": 1, "square": 2, "cube": 3}[name]))


def compressed(points, kernel, diagonal, tolerance=1e-9, **options):
    return H2Matrix.from_kernel(
        points, kernel, diagonal=diagonal, tolerance=tolerance, leaf_size=16, **options
    )


def dense(points, kernel, diagonal):
    x = torch.from_numpy(points)
    return kernel(x, x).numpy() + np.diag(np.broadcast_to(diagonal, len(points)))


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def right_hand_side(n=N, seed=1):
    return np.random.default_rng(seed).standard_normal((n, 2))


CASES = {
    "cholesky square": ("square", COVARIANCE, 0.1, "cholesky"),
    "cholesky clusters": ("clusters", COVARIANCE, 0.1, "cholesky"),
    "cholesky line": ("line", COVARIANCE, 0.1, "cholesky"),
    "ldlt square": ("square", COVARIANCE, 0.1, "ldlt"),
    "lu square": ("square", COVARIANCE, 0.1, "lu"),
    "lu clusters": ("clusters", SKEWED, 0.5, "lu"),
    "ldlt complex": ("square", WAVE, 30.0, "ldlt"),
    "ldlt complex diagonal": ("square", COVARIANCE, 2.0 + 1.0j, "ldlt"),
    "lu complex": ("clusters", SKEWED_WAVE, 30.0, "lu"),
}


@pytest.mark.parametrize(("name", "kernel", "diagonal", "kind"), CASES.values(), ids=CASES)
def test_solve_and_determinant_match_the_dense_ones(name, kernel, diagonal, kind):
    points, b = points_of(name), right_hand_side()
    A = compressed(points, kernel, diagonal)
    F = factorize(A.form, tolerance=1e-10, kind=kind, device=BATCHES)
    matrix = dense(points, kernel, diagonal)
    assert len(F.steps) > 2
    assert relative(matrix @ F.solve(b), b) <= 1e-6
    assert relative(matrix @ F.solve(1j * b[:, 0]), 1j * b[:, 0]) <= 1e-6
    assert relative(matrix.T @ F.solve_transposed(b), b) <= 1e-6
    sign, size = np.linalg.slogdet(matrix)
    np.testing.assert_allclose(F.slogdet()[1], size, rtol=1e-8)
    np.testing.assert_allclose(F.slogdet()[0], sign, atol=1e-5)


# The tolerance decides in which precision is computed, the rule who is near, and the kind what is done with a block.
@pytest.mark.parametrize(
    ("rule", "tolerance", "kind"),
    [
        *((Strong(), tolerance, "cholesky") for tolerance in (1e-2, 1e-4, 1e-8)),
        *((Weak(), 1e-4, kind) for kind in ("cholesky", "lu")),
        (Strong(), 1e-8, "lu"),
    ],
)
def test_errors_ranks_and_bytes_are_those_of_the_native_factorization(rule, tolerance, kind):
    points, b = points_of("square"), right_hand_side()
    A = compressed(points, COVARIANCE, 0.1, admissibility=rule)
    batched, native = (
        factorize(A.form, tolerance=tolerance, kind=kind, device=device, checked=False)
        for device in (BATCHES, None)
    )
    assert batched.computed == native.computed
    matrix = dense(points, COVARIANCE, 0.1)
    lost = tolerance * np.linalg.norm(matrix)  # in the Frobenius norm, by the matrix that is factorized
    assert relative(matrix @ batched.solve(b), b) <= lost / 0.1  # no eigenvalue is below the nugget
    assert abs(batched.logdet() - native.logdet()) <= 2 * lost * np.linalg.norm(np.linalg.inv(matrix))
    # Padding, and triangles that are kept as squares, cost bytes; the order of boxes changes ranks a little.
    assert batched.n_bytes <= 2 * native.n_bytes
    for ours, theirs in zip(batched.level_table(), native.level_table(), strict=True):
        assert ours["skeletons"] <= 1.1 * theirs["skeletons"] + 10


@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 33])
def test_awkward_sizes(n):
    points = points_of("square", n)
    F = factorize(compressed(points, COVARIANCE, 0.5).form, device=BATCHES)
    matrix, b = dense(points, COVARIANCE, 0.5), np.arange(1.0, n + 1)
    np.testing.assert_allclose(F.solve(b), np.linalg.solve(matrix, b), rtol=1e-8)
    np.testing.assert_allclose(F.logdet(), np.linalg.slogdet(matrix)[1], atol=1e-8)
    assert F.solve(np.zeros((n, 0))).shape == (n, 0)


def test_a_root_multiplies_to_the_matrix_and_samples_are_its_multiples_of_normal_vectors():
    points = points_of("square")
    F = factorize(compressed(points, COVARIANCE, 0.1).form, device=BATCHES)
    root = F.multiply_root(np.eye(N))
    assert relative(root @ root.T, dense(points, COVARIANCE, 0.1)) <= 1e-6
    np.testing.assert_allclose(F.multiply_root_transposed(np.eye(N)), root.T, atol=1e-12)
    sample = F.sample(torch.Generator().manual_seed(0))
    normal = torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(sample.cpu().numpy(), root @ normal.numpy(), atol=1e-12)


def test_single_precision_points_give_single_precision_solutions():
    points = points_of("square").astype(np.float32)
    A = compressed(points, COVARIANCE, 0.1, 1e-4)
    b = torch.from_numpy(right_hand_side()).float()
    F = factorize(A.form, tolerance=1e-3, device=BATCHES)
    x = F.solve(b)
    assert (x.dtype, F.computed) == (torch.float32, np.float32)
    assert relative((A @ x).numpy(), b.numpy()) <= 0.1


def test_it_is_the_same_to_the_last_bit_every_time():
    A = compressed(points_of("square"), COVARIANCE, 0.1)
    b = right_hand_side()
    first, second = (factorize(A.form, device=BATCHES).solve(b) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_progress_is_told_from_the_leaves_to_the_end():
    A, told = compressed(points_of("square"), COVARIANCE, 0.1), []
    factorize(A.form, device=BATCHES, progress=lambda *state: told.append(state))
    assert told == sorted(told)
    assert told[-1] == (A.rows.n_boxes, A.rows.n_boxes)


def test_what_fails_natively_fails_alike():
    points = points_of("square")
    points[-3:] = points[:3]
    A = compressed(points, COVARIANCE, 0.0, 1e-6)
    with pytest.raises(ConvergenceError, match="nugget"):
        factorize(A.form, kind="cholesky", device=BATCHES)
    with pytest.raises(ConvergenceError, match=r"the pivot -\d"):
        factorize(A.add_diagonal(-5.0).form, kind="cholesky", device=BATCHES)
    with pytest.raises(ConvergenceError, match=r"the pivot 0\.00e\+00 .* singular"):
        factorize(compressed(points, 0.0 * COVARIANCE, 0.0).form, kind="lu", device=BATCHES)
    B = A.add_diagonal(1e-2)
    assert relative(B @ factorize(B.form, device=BATCHES).solve(np.ones(N)), np.ones(N)) <= 1e-2


def test_a_pivot_that_the_device_alone_refuses_is_the_least_of_its_block(monkeypatch):
    X = torch.diag(torch.tensor([4.0, 1.0, 9.0, 1.0], dtype=torch.float64))
    X[1, 0] = X[0, 1] = 2.0 * (1 - 1e-14)
    real = torch.linalg.cholesky_ex(X)
    monkeypatch.setattr(
        torch.linalg, "cholesky_ex", lambda _: (real.L[None], torch.ones(1, dtype=torch.int32))
    )
    with pytest.raises(bucket.BrokenDown) as failure:
        bucket._cholesky(X[None], torch.tensor([[10, 11, 12, 13]]))
    assert failure.value.place == 11
    # The square of a rounded root: machines differ in its last bits.
    assert failure.value.pivot == pytest.approx(float(real.L[1, 1]) ** 2, rel=4 * np.finfo(float).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_pivot_that_fails_is_named_with_its_point(dtype):
    X = torch.eye(5, dtype=dtype).repeat(3, 1, 1)
    X[1, 3, 3] = -2.0
    X[1, 4, 0] = X[1, 0, 4] = 3.0
    with pytest.raises(bucket.BrokenDown) as failure:
        bucket._cholesky(X, torch.arange(15).reshape(3, 5))
    assert (failure.value.place, failure.value.pivot) == (8, -2.0)


@pytest.mark.parametrize("kind", ["ldlt", "lu"])
def test_sparse_corrections_are_eliminated_too(kind):
    points = points_of("square")
    A = compressed(points, COVARIANCE, 1.0)
    i, j = np.nonzero(np.sqrt(((points[:, None] - points) ** 2).sum(axis=2)) < 0.02)
    near = A.is_near(i, j)
    i, j = i[near], j[near]
    values = 0.1 * np.cos(i * j)
    matrix = dense(points, COVARIANCE, 1.0)
    np.add.at(matrix, (i, j), values)
    F = factorize(A.add_sparse(i, j, values).form, tolerance=1e-10, kind=kind, device=BATCHES)
    b = right_hand_side()
    assert len(i) > N
    assert relative(F.solve(b), np.linalg.solve(matrix, b)) <= 1e-6


def test_a_matrix_without_kernel_is_not_eliminated_in_batches():
    A = compressed(points_of("square", 100), COVARIANCE, 0.1)
    with pytest.raises(ValueError, match="only a kernel's entries"):
        factorize((A @ A).form, device=BATCHES)


def test_boxes_of_a_color_share_no_near_box_and_every_box_has_one():
    A = compressed(points_of("square"), COVARIANCE, 0.1)
    leaves = A.rows.level(A.rows.n_levels - 1)
    start = A.interactions.near.start[leaves.start :]
    near = csr_array(
        (
            np.ones(start[-1] - start[0]),
            A.interactions.near.boxes[start[0] :] - leaves.start,
            start - start[0],
        ),
        shape=(len(leaves), len(leaves)),
    )
    found = colors(within_two_steps(near), np.ones(len(leaves), dtype=bool))
    assert sorted(np.concatenate(found)) == list(range(len(leaves)))
    assert len(found) <= 16
    for color in found:
        assert (near[color].sum(axis=0) <= 1).all()


def test_entries_are_evaluated_in_bounded_pieces(monkeypatch):
    """What all leaves have between them is kept, but never evaluated at once."""
    n = 1000
    A, sizes, real = compressed(points_of("cube", n), COVARIANCE, 0.1, 1e-6), [], DeviceKernel.__call__

    def noted(self, rows, columns):
        sizes.append((len(rows), rows.shape[1] * columns.shape[1]))
        return real(self, rows, columns)

    monkeypatch.setattr(DeviceKernel, "__call__", noted)
    for module in (padding, compression):
        monkeypatch.setattr(module, "LARGEST", 2**17)
    b = right_hand_side(n)
    assert relative(A @ factorize(A.form, tolerance=1e-6, device=BATCHES).solve(b), b) <= 1e-3
    assert sum(count * size for count, size in sizes) > 2**20
    assert max(count * size for count, size in sizes if count > 1) <= 2**17


@pytest.mark.parametrize(
    ("name", "kernel", "kind", "tolerance"),
    [
        ("square", COVARIANCE, "cholesky", 1e-6),
        ("square", COVARIANCE, "cholesky", 1e-2),
        ("cube", WAVE, "ldlt", 1e-6),  # that of the plane is evaluated on the CPU
        ("square", SKEWED, "lu", 1e-6),
    ],
)
def test_nothing_but_the_tree_and_a_few_answers_leaves_the_device(name, kernel, kind, tolerance, monkeypatch):
    """The meta device computes shapes alone, and refuses to be mixed with others or to give numbers away."""
    A = compressed(points_of(name, 250), kernel, 30.0, 1e-6)
    answers = Answers(monkeypatch)
    expected = factorize(A.form, tolerance=tolerance, kind=kind, device=BATCHES, checked=False)
    n_batches = sum(len(level.eliminations) for level in expected.steps)
    assert len(answers.told) <= 16 * n_batches
    answers.tell_again()
    b = torch.ones(250, 3, dtype=torch.float64, device="meta")
    with OnOneDevice():
        F = A.to("meta").factorize(tolerance, kind, checked=False)
        found = [F.solve(b), F.solve_transposed(b[:, 0])]
        found += [F.multiply_root(b)] if kind == "cholesky" else []
    assert next(answers.replay, None) is None
    for x in found:
        assert x.device.type == "meta"
    assert F.device.type == "meta"
    assert F.n_bytes == expected.n_bytes
    for level in F.steps:
        for batch in level.eliminations:
            assert batch.left.device.type == batch.outer.device.type == "meta"


def test_arrays_of_any_layout_and_type_are_solved_as_natively():
    A, b = compressed(points_of("square", 100), COVARIANCE, 0.1), right_hand_side(100)
    batched, native = (factorize(A.form, device=device) for device in (BATCHES, None))
    for x in (b[::-1], np.broadcast_to(1.0, 100), b.astype(">f8"), b.astype(np.longdouble), [1] * 100):
        found, wanted = batched.solve(x), native.solve(x)
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, atol=1e-8)


def test_vectors_that_want_gradients_get_them_or_an_error():
    A, b = compressed(points_of("square", 100), COVARIANCE, 0.1), torch.ones(100, requires_grad=True)
    F = factorize(A.form, device=BATCHES)
    F.solve(b).sum().backward()
    torch.testing.assert_close(b.grad, F.solve(torch.ones(100)))
    with pytest.raises(TypeError, match=r"pass x\.detach\(\)"):
        F.multiply_root(b)
