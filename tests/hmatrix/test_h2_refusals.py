"""What an H2 matrix does not take: each is refused in one sentence."""

import numpy as np
import pytest
import torch
from kernel_cases import KERNEL_CASES

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix import H2Matrix, Strong, Weak, kernels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tolerance": 0.0}, "between 0 and 1"),
        ({"tolerance": 1.0}, "between 0 and 1"),
        ({"diagonal": -1.0}, "nugget"),
        ({"diagonal": np.nan}, "NaN"),
        ({"points": np.array([[0.0, np.nan]])}, "point 0"),
        ({"points": np.array([[0.0, 1.0], [np.inf, 0.0]])}, "point 1"),
        ({"points": np.array([[0.0, 1.0], [1e200, 0.0]])}, "beyond 1e\\+150"),
        ({"admissibility": "hss"}, r'must be Strong\(\), Weak\(\), "strong", "weak" or None, not \'hss\''),
        ({"admissibility": Weak}, "admissibility must be"),
    ],
)
def test_unusable_input_is_one_clear_sentence(change, message):
    arguments = {"points": np.random.default_rng(0).random((50, 2)), "kernel": kernels.Matern()} | change
    with pytest.raises(ConfigError, match=message):
        H2Matrix.from_kernel(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": np.zeros(5)}, "shape"),
        ({"points": np.zeros((5, 0))}, "shape"),
        ({"diagonal": np.zeros(7)}, "diagonal"),
        ({"sources": np.zeros((5, 3))}, "coordinates"),
        ({"sources": np.zeros((5, 2)), "diagonal": 1.0}, "rectangular"),
        ({"leaf_size": 0}, "leaf_size"),
        (
            {"kernel": kernels.Custom(lambda x, y: torch.ones(3))},
            r"gave shape \(3,\) where \(25, 25\) was wanted",
        ),
        ({"kernel": kernels.Custom(lambda x, y: 1j * torch.cdist(x, y))}, r"is_complex=True"),
        (
            {"kernel": kernels.Custom(lambda x, y: torch.cdist(x, y) * x[:, :1], symmetric=True)},
            r"k\(x, y\) differs from k\(y, x\)",
        ),
    ],
)
def test_wrong_shapes_are_programming_mistakes(change, message):
    arguments = {"points": np.random.default_rng(0).random((50, 2)), "kernel": kernels.Matern()} | change
    with pytest.raises(ValueError, match=message):
        H2Matrix.from_kernel(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tolerance": "tight"}, "tolerance must be a number between 0 and 1, such as 1e-6, not 'tight'"),
        ({"tolerance": None}, "tolerance must be a number"),
        ({"diagonal": "nugget"}, "diagonal must be numbers, not 'nugget'"),
        ({"points": np.array([["a", "b"]])}, "points must be real numbers"),
        ({"leaf_size": "a"}, "leaf_size must be a whole number, not 'a'"),
        (
            {"kernel": kernels.Custom(lambda x, y: np.ones((len(x), len(y))))},
            "return a tensor, and gave ndarray",
        ),
    ],
)
def test_what_is_no_number_is_refused_by_name(change, message):
    arguments = {"points": np.random.default_rng(0).random((50, 2)), "kernel": kernels.Matern()} | change
    with pytest.raises(TypeError, match=message):
        H2Matrix.from_kernel(**arguments)


def test_no_diagonal_and_names_of_admissibilities_are_taken():
    points = np.random.default_rng(0).random((300, 2))
    for name, rule in (("weak", Weak()), ("strong", Strong())):
        A = H2Matrix.from_kernel(points, kernels.Matern(), diagonal=None, admissibility=name, leaf_size=16)
        B = H2Matrix.from_kernel(points, kernels.Matern(), admissibility=rule, leaf_size=16)
        assert A.admissibility == rule
        np.testing.assert_array_equal(A.to_dense(), B.to_dense())
        assert A.add_diagonal(None).form is A.form


def test_a_vector_of_the_wrong_length_is_refused():
    A = H2Matrix.from_kernel(np.random.default_rng(0).random((50, 2)), kernels.Matern())
    with pytest.raises(ValueError, match="50"):
        A @ np.ones(49)


def test_a_tolerance_below_the_floor_of_the_arithmetic_fails_with_a_sentence():
    points = np.random.default_rng(17).random((1100, 2)).astype(np.float32)
    with pytest.raises(ConvergenceError, match="double precision"):
        H2Matrix.from_kernel(points, kernels.Matern(length_scale=0.2), tolerance=1e-9, leaf_size=32)


def test_entries_that_are_nan_are_refused():
    covariance = kernels.Matern(nu=0.5, length_scale=0.2)
    kernel = kernels.Custom(
        lambda x, y: torch.where(x[..., :, None, 0] > 0.9, torch.nan, covariance(x, y)), symmetric=True
    )
    for n in (300, 20):  # with far blocks, and dense
        with pytest.raises(ConvergenceError, match="NaN"):
            H2Matrix.from_kernel(np.random.default_rng(0).random((n, 2)), kernel, leaf_size=16)


def test_what_is_no_kernel_or_no_vector_is_refused_by_name():
    points = np.random.default_rng(0).random((50, 2))
    with pytest.raises(TypeError, match=r"kernel must be one of pipeline\.hmatrix\.kernels, .* not 'matern'"):
        H2Matrix.from_kernel(points, "matern")
    matrix = H2Matrix.from_kernel(points.tolist(), KERNEL_CASES["matern"])
    np.testing.assert_array_equal(matrix @ ([1.0] * 50), matrix @ np.ones(50))
    for wrong in (["a"] * 50, [None] * 50):
        with pytest.raises(TypeError, match=r"the product needs numbers in an array or a tensor, not list"):
            matrix @ wrong


def test_what_solves_is_checked_before_anything_is_solved():
    A = H2Matrix.from_kernel(np.random.default_rng(0).random((50, 2)), kernels.Matern(), diagonal=1.0)
    b = np.ones(50)
    with pytest.raises(
        TypeError, match=r"factorization must be the result of A\.factorize\(\), not H2Matrix"
    ):
        A.solve(b, factorization=A)
    with pytest.raises(ValueError, match="max_iterations must be at least 1, not 0"):
        A.solve(b, max_iterations=0)
    with pytest.raises(TypeError, match="max_iterations must be a whole number"):
        A.solve(b, max_iterations="many")
    with pytest.raises(ValueError, match="finite factors, not nan"):
        np.nan * A
