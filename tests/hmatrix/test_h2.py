import logging

import numpy as np
import pytest
import torch
from kernel_cases import KERNEL_CASES

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import H2Matrix, Strong, Weak, kernels
from pipeline.hmatrix.entries import length_scales
from pipeline.hmatrix.kernels import Swapped

N = 1100


def unit_sphere(n):
    i = np.arange(n)
    z = 1 - (2 * i + 1) / n
    angle = np.pi * (3 - 5**0.5) * i
    return np.stack([np.sqrt(1 - z * z) * np.cos(angle), np.sqrt(1 - z * z) * np.sin(angle), z], axis=1)


def clusters(generator, n):
    """Points of very uneven density, five of them twice."""
    centers = generator.random((10, 2))
    points = centers[generator.integers(0, 10, n)] + 10 ** generator.uniform(
        -6, -1, (n, 1)
    ) * generator.standard_normal((n, 2))
    points[-5:] = points[:5]
    return points


POINTS = {
    "square": lambda g, n: g.random((n, 2)),
    "cube": lambda g, n: g.random((n, 3)),
    "sphere": lambda g, n: unit_sphere(n),
    "clusters": clusters,
    "line in space": lambda g, n: np.linspace(0, 1, n)[:, None] * np.array([1.0, 2.0, -1.0]),
    "one far outlier": lambda g, n: np.concatenate([g.random((n - 1, 2)), [[1e6, -1e6]]]),
    "one dimension": lambda g, n: g.random((n, 1)),
}

KERNELS = KERNEL_CASES | {
    "custom": kernels.Custom(lambda x, y: torch.exp(-torch.cdist(x, y)) * (1 + x[..., :1])),
}

COMBINATIONS = {
    "matern 3/2": kernels.Matern(nu=1.5, length_scale=0.3),
    "matern 5/2": kernels.Matern(nu=2.5, length_scale=0.3),
    "anisotropic": kernels.Matern(nu=0.5, length_scale=(0.1, 0.5, 1.0)),
    "sum": kernels.Matern(nu=1.5, length_scale=0.2) + 0.5 * kernels.SquaredExponential(length_scale=1.0),
    "product": kernels.Matern(nu=0.5, length_scale=0.2) * kernels.RationalQuadratic(),
    "complex multiple": (1 + 2j) * kernels.Matern(nu=0.5),
}


def dense(kernel, points, diagonal=0.0, sources=None):
    matrix = kernel(
        torch.from_numpy(points), torch.from_numpy(points if sources is None else sources)
    ).numpy()
    return matrix + np.diag(np.broadcast_to(diagonal, len(points))) if sources is None else matrix


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("name", [*KERNELS, *COMBINATIONS])
def test_product_and_transpose_are_as_accurate_as_asked_with_every_kernel(name):
    generator = np.random.default_rng(0)
    points = POINTS["sphere"](generator, N)
    kernel = (KERNELS | COMBINATIONS)[name]
    A = H2Matrix.from_kernel(points, kernel, diagonal=0.1, tolerance=1e-6, leaf_size=32)
    matrix = dense(kernel, points, 0.1)
    x = generator.standard_normal((N, 20))
    assert relative(A @ x, matrix @ x) <= 2e-6
    assert relative(A.product_transposed(x), matrix.T @ x) <= 2e-6
    assert relative(A.T @ x, matrix.T @ x) <= 2e-6


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-10])
def test_achieved_error_is_at_most_twice_the_tolerance(name, tolerance):
    generator = np.random.default_rng(1)
    points = POINTS[name](generator, N)
    kernel = kernels.Matern(nu=0.5, length_scale=0.2)
    A = H2Matrix.from_kernel(points, kernel, diagonal=1e-2, tolerance=tolerance, leaf_size=32)
    x = generator.standard_normal((N, 20))
    matrix = dense(kernel, points, 1e-2)
    assert relative(A @ x, matrix @ x) <= 2 * tolerance
    assert A.error_estimate() <= 2 * tolerance
    np.testing.assert_allclose(A.diagonal(), np.diag(matrix), rtol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 33, 257])
def test_awkward_sizes(n):
    points = np.random.default_rng(n).random((n, 2))
    kernel = kernels.Matern(nu=0.5)
    A = H2Matrix.from_kernel(points, kernel, diagonal=0.5, tolerance=1e-8, leaf_size=16)
    assert A.shape == (n, n)
    np.testing.assert_allclose(A.to_dense(), dense(kernel, points, 0.5), rtol=1e-6, atol=1e-8)


def test_points_all_equal_give_rank_one():
    points = np.full((300, 2), 0.25)
    A = H2Matrix.from_kernel(points, kernels.Matern(), tolerance=1e-8, leaf_size=16)
    np.testing.assert_allclose(A.to_dense(), np.ones((300, 300)), rtol=1e-7)
    assert A.row_basis.rank.max() == 1


@pytest.mark.parametrize("rule", [Strong(), Weak()])
def test_both_admissibilities_reach_the_tolerance(rule):
    generator = np.random.default_rng(2)
    points = generator.random((N, 1))
    kernel = kernels.Matern(nu=0.5, length_scale=0.1)
    A = H2Matrix.from_kernel(points, kernel, tolerance=1e-7, leaf_size=32, admissibility=rule)
    x = generator.standard_normal(N)
    assert relative(A @ x, dense(kernel, points) @ x) <= 2e-7
    assert A.admissibility == rule


def test_many_dimensions_fall_back_to_weak_admissibility_and_say_so():
    generator = np.random.default_rng(3)
    points = generator.standard_normal((2100, 64))
    kernel = kernels.SquaredExponential(length_scale=16.0)
    A = H2Matrix.from_kernel(points, kernel, diagonal=0.1, tolerance=1e-4)
    assert A.admissibility.name == "weak"
    assert "weak admissibility" in A.notes[0]
    assert "dense" in H2Matrix.from_kernel(points[:500], kernel, tolerance=1e-4).notes[0]
    x = generator.standard_normal(2100)
    assert relative(A @ x, dense(kernel, points, 0.1) @ x) <= 2e-4


def test_permuting_the_points_permutes_the_matrix():
    generator = np.random.default_rng(4)
    points, order = generator.random((N, 2)), generator.permutation(N)
    kernel = kernels.Matern(nu=1.5)
    x = generator.standard_normal(N)
    first = H2Matrix.from_kernel(points, kernel, tolerance=1e-8) @ x
    second = H2Matrix.from_kernel(points[order], kernel, tolerance=1e-8) @ x[order]
    assert relative(second, first[order]) <= 4e-8


def test_multiples_scale_products_and_negation_turns_them():
    generator = np.random.default_rng(5)
    A = H2Matrix.from_kernel(generator.random((N, 2)), kernels.Matern(), diagonal=1.0)
    x = generator.standard_normal(N)
    np.testing.assert_allclose((2.0 * A) @ x, 2 * (A @ x), rtol=1e-12)
    np.testing.assert_allclose((-A) @ x, -(A @ x), rtol=1e-12)
    np.testing.assert_allclose((1j * A) @ x, 1j * (A @ x), rtol=1e-6)
    np.testing.assert_allclose((2.0 * A).diagonal(), 2 * A.diagonal(), rtol=1e-12)


def test_product_is_linear_and_its_transpose_is_adjoint():
    generator = np.random.default_rng(6)
    kernel = KERNELS["custom"]
    A = H2Matrix.from_kernel(generator.random((N, 2)), kernel, tolerance=1e-5)
    x, y = generator.standard_normal((2, N))
    np.testing.assert_allclose(A @ (x + 2 * y), A @ x + 2 * (A @ y), rtol=1e-9, atol=1e-9)
    assert abs(y @ (A @ x) - A.product_transposed(y) @ x) <= 1e-12 * N**2


def test_rectangular_products_and_transposes():
    generator = np.random.default_rng(7)
    targets, sources = generator.random((N, 2)), generator.random((300, 2)) + 0.5
    kernel = kernels.Matern(nu=0.5, length_scale=0.2)
    A = H2Matrix.from_kernel(targets, kernel, sources=sources, tolerance=1e-7, leaf_size=32)
    matrix = dense(kernel, targets, sources=sources)
    assert A.shape == (N, 300)
    assert relative(A @ np.eye(300), matrix) <= 2e-7
    assert relative(A.T @ np.eye(N), matrix.T) <= 2e-7
    with pytest.raises(ValueError, match="square"):
        A.diagonal()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_type_follows_the_points(dtype):
    points = np.random.default_rng(8).random((N, 3)).astype(dtype)
    x = np.random.default_rng(9).standard_normal(N).astype(dtype)
    A = H2Matrix.from_kernel(points, kernels.Matern(), tolerance=1e-5)
    assert A.dtype == dtype
    assert (A @ x).dtype == dtype
    wave = H2Matrix.from_kernel(points, kernels.Helmholtz(), tolerance=1e-5)
    assert (wave @ x).dtype == (np.complex64 if dtype == np.float32 else np.complex128)
    exact = dense(kernels.Matern(), points.astype(np.float64))
    assert relative(A @ x, exact @ x) <= 2e-5


def test_tensors_give_tensors():
    points = torch.rand(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A = H2Matrix.from_kernel(points, kernels.Matern(), tolerance=1e-6)
    x = torch.ones(300, 2, dtype=torch.float64)
    y = A @ x
    assert isinstance(y, torch.Tensor)
    np.testing.assert_array_equal(y.numpy(), A @ x.numpy())


def test_a_real_matrix_takes_complex_vectors():
    generator = np.random.default_rng(10)
    A = H2Matrix.from_kernel(generator.random((300, 2)), kernels.Matern(), tolerance=1e-8)
    x, y = generator.standard_normal((2, 300))
    np.testing.assert_allclose(A @ (x + 1j * y), A @ x + 1j * (A @ y), rtol=1e-12)


def test_adding_a_diagonal_shares_the_compression():
    generator = np.random.default_rng(11)
    A = H2Matrix.from_kernel(generator.random((300, 2)), kernels.Matern(), tolerance=1e-6)
    v = generator.random(300)
    B = A.add_diagonal(v).add_diagonal(1.0)
    np.testing.assert_allclose(B.to_dense(), A.to_dense() + np.diag(v + 1.0), rtol=1e-10)
    assert B.near is A.near


def test_bytes_grow_linearly():
    generator = np.random.default_rng(12)
    kernel = kernels.Matern(length_scale=0.1)
    small, large = (
        H2Matrix.from_kernel(generator.random((n, 2)), kernel, tolerance=1e-4).n_bytes for n in (8192, 32768)
    )
    assert large / small < 4.4


@pytest.mark.parametrize("count", [1, 2, 5, 1000])
def test_shares_sum_up_to_the_matrix(count):
    generator = np.random.default_rng(13)
    A = H2Matrix.from_kernel(
        generator.random((600, 2)), kernels.Matern(), diagonal=0.3, tolerance=1e-6, leaf_size=16
    )
    x = generator.standard_normal(600)
    total = sum(A.part(number, count) @ x for number in range(count))
    np.testing.assert_allclose(total, A @ x, rtol=1e-10)


def test_the_linear_operator_serves_scipy():
    generator = np.random.default_rng(14)
    A = H2Matrix.from_kernel(generator.random((300, 2)), KERNELS["custom"], tolerance=1e-6)
    operator = A.as_linear_operator()
    x = generator.standard_normal((300, 3))
    np.testing.assert_allclose(operator @ x, A @ x)
    np.testing.assert_allclose(operator.T @ x[:, 0], A.product_transposed(x[:, 0]))


def test_a_level_table_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="pipeline.hmatrix"):
        H2Matrix.from_kernel(np.random.default_rng(15).random((600, 2)), kernels.Matern(), leaf_size=16)
    assert any("skeletons" in record.message for record in caplog.records)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tensors_are_points_diagonals_and_vectors(dtype):
    points = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    A = H2Matrix.from_kernel(points, kernels.Matern(), diagonal=torch.full((200,), 0.5, dtype=dtype))
    x = torch.ones(200, dtype=dtype)
    y = A @ x
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, A @ x.float())
    assert A.factorize().solve(x).dtype == torch.float32
    x, _ = A.solve(x, 1e-4)
    torch.testing.assert_close(A @ x, torch.ones(200).to(x.dtype), rtol=0, atol=1e-3)


def test_trees_follow_the_length_scales_of_a_kernel():
    generator = np.random.default_rng(18)
    points, scales = generator.random((4096, 2)), (0.01, 1.0)
    squeezed = H2Matrix.from_kernel(points / scales, kernels.Matern())
    A = H2Matrix.from_kernel(points, 2.0 * kernels.Matern(length_scale=scales))
    assert A.n_bytes == squeezed.n_bytes
    assert length_scales(Swapped(A.kernel)) == scales


def test_a_matrix_without_low_rank_says_so():
    generator = np.random.default_rng(16)
    noise = kernels.Custom(lambda x, y: torch.sin(1e5 * torch.cdist(x, y)), symmetric=True)
    with pytest.raises(ConvergenceError, match="tolerance"):
        H2Matrix.from_kernel(generator.random((8000, 2)), noise, tolerance=1e-6, admissibility=Weak())


def test_compression_and_factorization_tell_their_progress():
    points = np.random.default_rng(0).random((700, 2))
    told = []
    A = H2Matrix.from_kernel(
        points, kernels.Matern(), diagonal=1.0, leaf_size=16, progress=lambda *state: told.append(state)
    )
    boxes = A.rows.n_boxes
    assert told[-1] == (boxes, boxes)
    told.clear()
    A.factorize(progress=lambda *state: told.append(state))
    assert told[-1] == (boxes, boxes)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_an_exception_out_of_progress_ends_the_work():
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        H2Matrix.from_kernel(np.random.default_rng(0).random((300, 2)), kernels.Matern(), progress=stop)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_threads_do_not_change_a_bit(three_threads):
    for kernel in (kernels.Matern(), kernels.Helmholtz(wavenumber=3.0)):
        points, matrices = np.random.default_rng(0).random((900, 3)), []
        for threads in (3, 1):
            torch.set_num_threads(threads)
            matrices.append(H2Matrix.from_kernel(points, kernel, leaf_size=16))
        for name in ("near", "far", "row_basis"):
            np.testing.assert_array_equal(*(getattr(A, name).values for A in matrices))


def test_an_exception_out_of_progress_stops_all_threads(three_threads):
    def stop(done, total):
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        H2Matrix.from_kernel(np.random.default_rng(0).random((2000, 2)), kernels.Matern(), progress=stop)


def test_threads_tell_their_progress_to_the_end(three_threads):
    told = []
    A = H2Matrix.from_kernel(
        np.random.default_rng(0).random((2000, 2)),
        kernels.Matern(),
        progress=lambda *state: told.append(state),
    )
    assert told == sorted(told)
    assert told[-1] == (A.rows.n_boxes, A.rows.n_boxes)


def test_right_hand_sides_may_be_views():
    A = H2Matrix.from_kernel(np.random.default_rng(0).random((50, 2)), kernels.Matern(nu=0.5), diagonal=1.0)
    for b in (np.arange(50.0)[::-1], np.broadcast_to(1.0, 50)):
        x, _ = A.solve(b)
        np.testing.assert_allclose(A @ x, b, atol=1e-5)
