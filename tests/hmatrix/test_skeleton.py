import pickle

import numpy as np
import pytest

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import kernels
from pipeline.hmatrix.admissibility import Strong, interactions
from pipeline.hmatrix.cluster import build_tree
from pipeline.hmatrix.entries import entry_matrix, kernel_matrix, program
from pipeline.hmatrix.skeleton import FarSampling, WantedBasis, nested_basis, unknowns

FLOAT = np.dtype(np.float64)


def basis_of(tolerance, kernel=None, **options):
    points = np.random.default_rng(0).random((1000, 2))
    tree = build_tree(points, halvings=6, halvings_per_level=2)
    lists = interactions(tree, tree, Strong())
    matrix = kernel_matrix(kernel or kernels.Matern(nu=0.5, length_scale=0.3), tree, tree)
    sampling = FarSampling(tolerance**2, 1000.0, **options)
    wanted = WantedBasis(lists.far_columns, sampling, transposed=False, stored=FLOAT)
    basis = nested_basis(matrix, tree, tree, wanted, FLOAT)
    return tree, lists, basis


def block(tree, rows, columns):
    distance = np.sqrt(((tree.points[rows][:, None] - tree.points[columns]) ** 2).sum(axis=2))
    return np.exp(-distance / 0.3)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-9, 1e-12])
def test_a_leaf_loses_no_more_than_its_budget(tolerance):
    tree, lists, basis = basis_of(tolerance)
    for leaf in tree.level(tree.n_levels - 1):
        far = [
            c
            for b in (leaf, tree.parent[leaf])
            for c in lists.far.boxes[lists.far.start[b] : lists.far.start[b + 1]]
        ]
        rows = np.concatenate([np.arange(tree.start[c], tree.stop[c]) for c in far])
        order = basis.order[basis.order_start[leaf] : basis.order_start[leaf + 1]] + tree.start[leaf]
        k = basis.rank[leaf]
        T = basis.values[basis.value_start[leaf] : basis.value_start[leaf + 1]].reshape(k, -1)
        K = block(tree, rows, order)
        lost = np.linalg.norm(K[:, k:] - K[:, :k] @ T)
        assert lost <= 2 * tolerance + 1e-12
        assert k < len(order) or tolerance < 1e-3


def test_ranks_grow_with_the_logarithm_of_the_tolerance():
    ranks = [basis_of(tolerance)[2].rank.mean() for tolerance in (1e-2, 1e-4, 1e-6)]
    assert ranks[0] < ranks[1] < ranks[2]


def test_skeletons_of_a_box_are_points_of_it_and_of_its_children():
    tree, _, basis = basis_of(1e-4)
    for box in range(tree.n_boxes):
        skeletons = basis.skeletons[basis.skeleton_start[box] : basis.skeleton_start[box + 1]]
        assert ((skeletons >= tree.start[box]) & (skeletons < tree.stop[box])).all()
    np.testing.assert_array_equal(np.diff(basis.order_start), unknowns(tree, basis.rank))


def test_boxes_that_grow_too_large_stop_the_build():
    with pytest.raises(ConvergenceError, match="does not compress"):
        basis_of(1e-9, largest_box=10)


@pytest.mark.parametrize(
    "kernel",
    [
        kernels.Matern(nu=0.5, length_scale=(0.2, 0.4), variance=2.0),
        kernels.Matern(nu=1.5),
        kernels.Matern(nu=2.5, length_scale=0.1),
        kernels.SquaredExponential(length_scale=0.3),
        kernels.RationalQuadratic(alpha=0.3),
        kernels.LaplaceSingleLayer(),
        kernels.Yukawa(decay=3.0),
        2.0 * kernels.Matern() + kernels.Matern(nu=1.5) * kernels.SquaredExponential(),
    ],
)
def test_native_programs_choose_what_called_kernels_choose(kernel):
    dimension = 3 if isinstance(kernel, kernels.Yukawa) else 2  # in the plane it is a Bessel function
    points = np.random.default_rng(1).random((300, dimension))
    tree = build_tree(points, halvings=4, halvings_per_level=2)
    lists = interactions(tree, tree, Strong())
    assert program(kernel, dimension)

    def entries(rows, columns):
        import torch

        return kernel(torch.from_numpy(tree.points[rows]), torch.from_numpy(tree.points[columns])).numpy()

    found = [
        nested_basis(
            matrix,
            tree,
            tree,
            WantedBasis(lists.far, FarSampling(1e-8, 300.0), transposed=transposed, stored=FLOAT),
            FLOAT,
        )
        for matrix in (kernel_matrix(kernel, tree, tree), entry_matrix(entries, tree, tree))
        for transposed in (False, True)
    ]
    for basis in found[1:]:
        np.testing.assert_array_equal(basis.rank, found[0].rank)
        np.testing.assert_allclose(
            np.sort(np.abs(basis.values)), np.sort(np.abs(found[0].values)), rtol=1e-2, atol=1e-3
        )


def test_kernels_without_a_closed_form_have_no_program():
    assert program(kernels.Matern(nu=0.7), 2) == []
    assert program(kernels.Matern() + kernels.Matern(nu=0.7), 2) == []
    assert program(2.0 * kernels.Helmholtz(), 3) == []


@pytest.mark.parametrize("n_boxes", [1, 85])
def test_the_budgets_of_all_boxes_on_both_sides_add_up_to_the_error_that_is_allowed(n_boxes):
    budget = FarSampling.for_tolerance(1e-3, 20.0, n_boxes).budget
    assert 2 * n_boxes * budget == pytest.approx((1e-3 * 20.0) ** 2)


def test_a_basis_counts_its_bytes_and_travels_without_its_native_view():
    _, _, basis = basis_of(1e-4)
    assert basis.native is basis.native
    again = pickle.loads(pickle.dumps(basis))
    assert "native" not in vars(again)
    for name in ("rank", "skeletons", "order", "values"):
        np.testing.assert_array_equal(getattr(again, name), getattr(basis, name))
    # int32 ranks, skeletons and orders, and float64 values.
    numbers = [basis.rank, basis.skeletons, basis.order]
    assert basis.n_bytes == 4 * sum(map(len, numbers)) + 8 * len(basis.values)
    nothing = basis.none()
    assert (len(nothing.rank), len(nothing.values), nothing.n_bytes) == (0, 0, 0)
    assert nothing.values.dtype == basis.values.dtype
