"""Compression from products alone, against the dense matrix whose products they are."""

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix import H2Matrix, Strong, Weak, kernels
from pipeline.hmatrix.cluster import build_tree, n_halvings

KERNELS = {
    "covariance": kernels.Matern(length_scale=0.3),
    "complex": kernels.Helmholtz(wavenumber=5.0),
    "nonsymmetric": kernels.Custom(lambda x, y: kernels.Matern()(x, 1.2 * y)),
}


@pytest.fixture
def generator():
    return np.random.default_rng(7)


def tree_of(points, leaf_size=32):
    halvings = n_halvings(len(points), leaf_size)
    return build_tree(np.asarray(points, dtype=np.float64), halvings=halvings, halvings_per_level=2)


def dense_matrix(kernel, points):
    return kernel(torch.from_numpy(points), torch.from_numpy(points)).numpy() + 0.5 * np.eye(len(points))


def relative_error(found, expected):
    return np.linalg.norm(found.to_dense() - expected) / np.linalg.norm(expected)


class Counted:
    """A matrix that counts the vectors that it was multiplied with."""

    def __init__(self, matrix):
        self.matrix, self.n_vectors = matrix, 0

    def __call__(self, X):
        self.n_vectors += X.shape[1]
        return self.matrix @ X


@pytest.mark.parametrize("admissibility", [Strong(), Weak()])
@pytest.mark.parametrize("name", KERNELS)
def test_the_error_is_within_the_tolerance(name, admissibility, generator):
    points = generator.random((500, 2))
    C = dense_matrix(KERNELS[name], points)
    transposed = None if KERNELS[name].symmetric else lambda X: C.T @ X
    for tolerance in (1e-3, 1e-8):
        found = H2Matrix.from_operator(
            tree_of(points),
            lambda X: C @ X,
            product_transposed=transposed,
            tolerance=tolerance,
            admissibility=admissibility,
        )
        # Asked for on four random vectors, whose mean square is that of the whole matrix.
        assert relative_error(found, C) <= 2 * tolerance


@pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33, 65, 257])
def test_every_size_is_compressed(n, generator):
    points = generator.random((n, 2))
    C = dense_matrix(KERNELS["nonsymmetric"], points)
    found = H2Matrix.from_operator(tree_of(points), lambda X: C @ X, product_transposed=lambda X: C.T @ X)
    np.testing.assert_allclose(found.to_dense(), C, rtol=0, atol=2e-6 * max(np.linalg.norm(C), 1))


PLACES = {
    "all equal": lambda generator: np.ones((150, 2)),
    "pairs": lambda generator: np.repeat(generator.random((75, 2)), 2, axis=0),
    "a line in space": lambda generator: np.outer(generator.random(150), [1.0, 2.0, 3.0]),
    "a far outlier": lambda generator: np.append(generator.random((149, 2)), [[1e6, 0.0]], axis=0),
}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_every_distribution_of_points_is_compressed(places, generator):
    points = places(generator)
    C = dense_matrix(KERNELS["covariance"], points)
    found = H2Matrix.from_operator(tree_of(points, leaf_size=8), lambda X: C @ X)
    assert relative_error(found, C) <= 2e-6


@pytest.mark.parametrize("name", KERNELS)
def test_known_entries_spare_vectors(name, generator):
    points = np.sort(generator.random((900, 1)), axis=0)
    C = dense_matrix(KERNELS[name], np.pad(points, ((0, 0), (0, 2))))
    product = Counted(C)
    found = H2Matrix.from_operator(
        tree_of(points),
        product,
        lambda i, j: C[np.ix_(i, j)],
        product_transposed=None if KERNELS[name].symmetric else lambda X: C.T @ X,
    )
    assert relative_error(found, C) <= 2e-6
    assert product.n_vectors <= 80


def test_the_number_of_vectors_is_that_of_near_unknowns_and_not_of_the_matrix(generator):
    for n in (1024, 2048):
        points = np.linspace(0, 1, n)[:, None]
        product = Counted(dense_matrix(kernels.Matern(nu=1.5, length_scale=0.2), points))
        found = H2Matrix.from_operator(tree_of(points, leaf_size=16), product, tolerance=1e-5)
        assert relative_error(found, product.matrix) <= 2e-5
        # Three near leaves of 16 points, or a parent's of as many skeletons: with what they want besides, below 200.
        assert product.n_vectors < 200


def test_a_symmetric_operator_gives_a_symmetric_matrix(generator):
    points = generator.random((400, 2))
    C = dense_matrix(KERNELS["covariance"], points)
    found = H2Matrix.from_operator(tree_of(points), lambda X: C @ X)
    assert found.is_symmetric
    np.testing.assert_allclose(found.to_dense(), found.to_dense().T, rtol=0, atol=1e-14)


def test_rectangular_operators_have_two_trees(generator):
    targets, sources = generator.random((300, 2)), generator.random((270, 2)) + 0.5
    C = kernels.Matern()(torch.from_numpy(targets), torch.from_numpy(sources)).numpy()
    rows, columns = (build_tree(points, halvings=4, halvings_per_level=2) for points in (targets, sources))
    found = H2Matrix.from_operator(
        rows, lambda X: C @ X, product_transposed=lambda X: C.T @ X, columns=columns
    )
    assert relative_error(found, C) <= 2e-6


TRIVIAL = {"zero": np.zeros((200, 200)), "identity": np.eye(200), "rank 1": np.ones((200, 200))}


@pytest.mark.parametrize("C", TRIVIAL.values(), ids=TRIVIAL)
def test_trivial_operators_are_exact(C, generator):
    found = H2Matrix.from_operator(tree_of(generator.random((200, 2)), leaf_size=16), lambda X: C @ X)
    np.testing.assert_allclose(found.to_dense(), C, rtol=0, atol=1e-6)


def test_an_operator_without_structure_is_represented_all_the_same(generator):
    C = generator.standard_normal((150, 150))
    found = H2Matrix.from_operator(
        tree_of(generator.random((150, 2)), leaf_size=16),
        lambda X: C @ X,
        product_transposed=lambda X: C.T @ X,
    )
    assert relative_error(found, C) <= 2e-6


def test_results_are_reproducible(generator):
    points = generator.random((300, 2))
    C = dense_matrix(KERNELS["covariance"], points)
    first, second = (
        H2Matrix.from_operator(tree_of(points), lambda X: C @ X, seed=3).to_dense() for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_an_operator_that_is_not_linear_is_refused(generator):
    points = generator.random((300, 2))
    C = dense_matrix(KERNELS["covariance"], points)
    with pytest.raises(ConvergenceError, match=r"relative error of .* asked for"):
        H2Matrix.from_operator(tree_of(points), lambda X: C @ X + 1e-3 * generator.standard_normal(X.shape))


def test_bad_arguments_are_refused(generator):
    tree, other = tree_of(generator.random((50, 2))), tree_of(generator.random((50, 2)))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        H2Matrix.from_operator(tree, lambda X: X, tolerance=0.0)
    with pytest.raises(ValueError, match="product_transposed"):
        H2Matrix.from_operator(tree, lambda X: X, columns=other)


def test_points_stand_for_their_tree(generator):
    targets, sources = generator.random((300, 2)), generator.random((200, 2)) + 1.5
    C = kernels.Matern()(torch.from_numpy(targets), torch.from_numpy(sources)).numpy()
    found = H2Matrix.from_operator(
        targets,
        lambda X: C @ X,
        columns=sources,
        product_transposed=lambda X: C.T @ X,
        admissibility="strong",
    )
    assert relative_error(found, C) <= 1e-6


@pytest.mark.parametrize(
    ("product", "error", "sentence"),
    [
        (
            lambda X: X[:-1],
            ValueError,
            r"numbers of shape \(50, 4\) for an array of shape \(50, 4\), not float64",
        ),
        (lambda X: X[:, 0], ValueError, r"not float64 of shape \(50,\)"),
        (lambda X: None, ValueError, "not object"),
        (lambda X: X * np.nan, ConfigError, "NaN or infinite"),
    ],
)
def test_products_that_are_none_are_refused(product, error, sentence, generator):
    with pytest.raises(error, match=sentence):
        H2Matrix.from_operator(generator.random((50, 2)), product)


def test_a_tree_and_points_are_not_mixed(generator):
    points = generator.random((50, 2))
    with pytest.raises(TypeError, match="not one of each"):
        H2Matrix.from_operator(tree_of(points), lambda X: X, columns=points, product_transposed=lambda X: X)
