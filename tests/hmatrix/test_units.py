"""Vectors and matrices of any size, sums with singular kernels, and advice that helps: against dense algebra."""

import numpy as np
import pytest
import torch

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import H2Matrix
from pipeline.hmatrix.factor import nugget_for
from pipeline.hmatrix.kernels import Custom, Helmholtz, LaplaceSingleLayer, Matern, Yukawa
from pipeline.hmatrix.krylov import conjugate_gradient, gmres, powers_of_two
from pipeline.runtime.communicator import run_in_threads

POINTS = np.random.default_rng(0).random((400, 3))


def close(found, expected, tolerance):
    unit = np.abs(expected).max()
    assert np.linalg.norm(found / unit - expected / unit) < tolerance * np.linalg.norm(expected / unit)


def test_units_are_powers_of_two_below_each_size():
    sizes = torch.tensor([1e-300, 1e300, 1.0, 3.0, 0.0, float("nan"), float("inf")], dtype=torch.float64)
    units = powers_of_two(sizes)
    ratio = sizes[:4] / units[:4]
    assert ((ratio >= 1) & (ratio < 2)).all()
    assert (units[4:] == 1).all()
    assert (torch.frexp(units)[0] == 0.5).all()


@pytest.mark.parametrize("size", [1e-250, 1e-170, 1e160, 1e250])
@pytest.mark.parametrize("kernel", [Matern(length_scale=0.3), Helmholtz(wavenumber=3.0)], ids=["cg", "gmres"])
def test_solutions_do_not_hang_on_the_unit_of_the_right_hand_side(size, kernel):
    diagonal = 0.5 if isinstance(kernel, Matern) else 3.0 + 1j
    A = H2Matrix.from_kernel(POINTS, kernel, diagonal=diagonal)
    b = np.random.default_rng(1).standard_normal((400, 2)) * [1.0, 1e3]
    exact = np.linalg.solve(A.to_dense(), b)
    x, info = A.solve(size * b)
    close(x, size * exact, 1e-6)
    assert 0 < info.relative_residual < 1e-8
    assert info.exact_residual == pytest.approx(A.solve(b)[1].exact_residual, rel=1e-3)
    close(A.factorize(1e-8).solve(size * b), size * exact, 1e-5)
    zero = np.zeros(400)
    assert (A.solve(zero)[0] == 0).all()


@pytest.mark.parametrize("method", [conjugate_gradient, gmres])
def test_iterations_of_several_processes_agree_on_the_unit(method):
    generator = np.random.default_rng(2)
    M = generator.standard_normal((40, 40))
    A = torch.from_numpy(M @ M.T + 40 * np.eye(40))
    b = torch.from_numpy(generator.standard_normal((40, 2))) * torch.tensor(
        [1e-200, 1e200], dtype=torch.float64
    )
    b[:20] *= 1e-30

    def solve(communicator):
        own = slice(20 * communicator.rank, 20 * communicator.rank + 20)

        def product(x):
            whole = torch.cat(communicator.all_gather(x.contiguous()))
            return A[own] @ whole

        return method(product, b[own], tolerance=1e-10, communicator=communicator)[0]

    found = torch.cat(run_in_threads(2, solve)).numpy()
    for column in range(2):
        close(found[:, column], np.linalg.solve(A.numpy(), b[:, column].numpy()), 1e-9)


def test_multiples_beyond_single_precision_are_refused():
    A = H2Matrix.from_kernel(POINTS.astype(np.float32), Matern(), diagonal=0.1)
    np.testing.assert_allclose((1e30 * A).to_dense(), 1e30 * A.to_dense(), rtol=1e-6)
    with pytest.raises(ValueError, match="too large for float32, in which"):
        A * 1e30 * 1e30
    with pytest.raises(ValueError, match="too small for float32"):
        A * 1e-30 * 1e-30
    assert ((0 * A).to_dense() == 0).all()
    wide = H2Matrix.from_kernel(POINTS, Matern(), diagonal=0.1)
    with pytest.raises(ValueError, match="too large for float"):
        wide * 1e200 * 1e200


@pytest.mark.parametrize(
    ("kernel", "dimension"),
    [
        (Helmholtz(wavenumber=6.0 + 1j) + Matern(length_scale=0.3), 3),
        (Yukawa(decay=3.0) + Matern(length_scale=0.3), 2),
        (LaplaceSingleLayer() + Matern(nu=1.2, length_scale=0.3), 3),
        (2.0 * (LaplaceSingleLayer() - Matern(nu=1.2, length_scale=0.3)), 3),
    ],
    ids=["helmholtz", "yukawa", "laplace", "scaled"],
)
def test_a_singular_kernel_and_a_smooth_one_add_up(kernel, dimension):
    points = POINTS[:, :dimension]
    A = H2Matrix.from_kernel(points, kernel, diagonal=1.0)
    x = np.random.default_rng(3).standard_normal(400)
    close(A @ x, kernel(points, points) @ x + x, 1e-5)


def test_matrices_of_a_singular_and_a_smooth_kernel_add_up():
    parts = Helmholtz(wavenumber=6.0), Matern(nu=1.2, length_scale=0.3)
    first, second = (H2Matrix.from_kernel(POINTS, kernel, diagonal=1.0) for kernel in parts)
    x = np.random.default_rng(4).standard_normal(400)
    dense = sum(kernel(POINTS, POINTS) for kernel in parts) + 2 * np.eye(400)
    close((first + second) @ x, dense @ x, 1e-5)


def test_a_singular_kernel_of_ones_own_has_to_be_0_at_0_in_a_sum_too():
    def bad(x, y):
        return 1 / (torch.cdist(x, y) + 1e-3)

    own = Custom(bad, symmetric=True, singular=True)
    for kernel in (own, own + Matern(), 2.0 * own):
        with pytest.raises(ValueError, match="the kernel says that it is singular, but gives 1e"):
            H2Matrix.from_kernel(POINTS, kernel)


def test_a_kernel_that_is_not_positive_definite_is_told_so_and_no_nugget_is_advised():
    kernel = Custom(lambda x, y: -(x @ y.mT), symmetric=True, positive_definite=True)
    for nugget in (0.1, 1.0):
        A = H2Matrix.from_kernel(POINTS, kernel, diagonal=nugget)
        assert np.linalg.eigvalsh(A.to_dense())[0] < 0
        with pytest.raises(ConvergenceError, match="has the eigenvalue -") as raised:
            A.factorize()
        assert "nugget" not in str(raised.value)
        # The advice, tried.
        x = np.ones(400)
        close(A.factorize(1e-8, kind="ldlt").solve(A.to_dense() @ x), x, 1e-5)


def test_the_nugget_that_is_advised_makes_up_for_the_pivot_that_failed():
    assert nugget_for(-1e-12, 100.0).startswith("add a nugget of 1e-07 or more")
    assert nugget_for(-2.5e-2, 100.0).startswith("add a nugget of 5e-02 or more")
