import pickle

import numpy as np
import pytest

from pipeline.hmatrix import _native
from pipeline.hmatrix.cluster import build_tree, leaf_bounds, n_halvings, whole_levels


def tree_of(points, leaf_size=16, halvings_per_level=2):
    halvings = n_halvings(len(points), leaf_size)
    return build_tree(
        np.asarray(points, dtype=float), halvings=halvings, halvings_per_level=halvings_per_level
    )


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 257, 1000])
@pytest.mark.parametrize("halvings_per_level", [1, 2, 3])
def test_every_level_tiles_the_points(n, halvings_per_level):
    points = np.random.default_rng(n).random((n, 3))
    tree = tree_of(points, halvings_per_level=halvings_per_level)
    for number in range(tree.n_levels):
        boxes = np.array(tree.level(number))
        assert tree.start[boxes[0]] == 0
        assert tree.stop[boxes[-1]] == n
        np.testing.assert_array_equal(tree.stop[boxes[:-1]], tree.start[boxes[1:]])
    np.testing.assert_array_equal(np.sort(tree.permutation), np.arange(n))
    np.testing.assert_array_equal(tree.points, points[tree.permutation])


def test_leaves_hold_equally_many_points_however_clustered():
    generator = np.random.default_rng(0)
    points = np.concatenate([generator.random((100, 2)), 1e-6 * generator.random((923, 2))])
    tree = tree_of(points)
    leaves = np.array(tree.level(tree.n_levels - 1))
    sizes = (tree.stop - tree.start)[leaves]
    assert sizes.max() - sizes.min() <= 1
    assert sizes.max() <= 16


@pytest.mark.parametrize("n", [0, 1, 64, 181, 182, 8192, 16384, 10**6 + 3])
def test_whole_levels_come_as_near_the_size_of_a_leaf_as_they_can(n):
    halvings = whole_levels(n, 64, 3)
    assert halvings % 3 == 0
    assert n / 2**halvings <= 64 * 2**1.5
    assert halvings == 0 or n / 2**halvings >= 64 / 2**1.5


def test_children_tile_their_parent_and_boxes_bound_their_points():
    tree = tree_of(np.random.default_rng(1).random((500, 2)))
    for box in range(tree.n_boxes):
        child = tree.first_child[box]
        if child >= 0:
            assert tree.start[child] == tree.start[box]
            assert tree.stop[child + tree.arity - 1] == tree.stop[box]
            assert (tree.parent[child : child + tree.arity] == box).all()
        points = tree.points[tree.start[box] : tree.stop[box]]
        np.testing.assert_array_equal(tree.lower[box], points.min(axis=0))
        np.testing.assert_array_equal(tree.upper[box], points.max(axis=0))
        assert tree.diameters[box] == pytest.approx(np.linalg.norm(np.ptp(points, axis=0)))


def test_the_tree_does_not_depend_on_how_equal_points_are_given():
    points = np.zeros((100, 2))
    first, second = tree_of(points), tree_of(points.copy())
    np.testing.assert_array_equal(first.permutation, second.permutation)
    assert (first.diameters == 0).all()


def test_a_metric_scales_the_boxes_and_leaves_the_points():
    points = np.random.default_rng(2).random((300, 2))
    metric = np.array([1.0, 0.05])
    tree = build_tree(points, halvings=4, halvings_per_level=2, metric=metric)
    scaled = build_tree(points * metric, halvings=4, halvings_per_level=2)
    for part in ("permutation", "start", "stop", "lower", "upper"):
        np.testing.assert_array_equal(getattr(tree, part), getattr(scaled, part))
    np.testing.assert_array_equal(tree.points, points[tree.permutation])


def test_a_tree_tells_its_size_in_one_line():
    tree = build_tree(np.random.default_rng(3).random((9, 2)), halvings=2, halvings_per_level=2)
    assert repr(tree) == (
        "ClusterTree(9 points in 2 dimensions, 2 levels, 5 boxes, at most 3 points in a leaf)"
    )
    assert not tree.fills_space
    volume = build_tree(np.random.default_rng(4).random((9, 3)), halvings=3, halvings_per_level=3)
    assert volume.fills_space


def test_more_leaves_than_points_leave_boxes_empty():
    tree = build_tree(np.arange(3.0)[:, None], halvings=3, halvings_per_level=1)
    sizes = (tree.stop - tree.start)[np.array(tree.level(3))]
    assert sizes.sum() == 3
    assert len(sizes) == 8
    assert tree.diameters[np.array(tree.level(3))].max() == 0


def test_halves_that_go_to_several_threads_are_ordered_as_one_thread_orders_them():
    points = np.random.default_rng(0).integers(0, 90, (40_001, 2)).astype(float)  # many coordinates are equal
    alone = _native.bisect(points, 9)
    for n_threads in (2, 3, 8):
        np.testing.assert_array_equal(_native.bisect(points, 9, n_threads), alone)


def test_a_tree_travels_without_its_native_view_and_ends_at_root_and_leaves():
    tree = tree_of(np.random.default_rng(5).random((100, 2)))
    assert tree.native is tree.native
    again = pickle.loads(pickle.dumps(tree))
    assert "native" not in vars(again)
    np.testing.assert_array_equal(again.points, tree.points)
    assert tree.parent[0] == -1
    assert (tree.first_child[np.array(tree.level(tree.n_levels - 1))] == -1).all()
    assert n_halvings(16, 16) == 0
    assert n_halvings(17, 16) == 1


def test_leaves_near_the_wanted_size_are_not_halved():
    assert whole_levels(70, 64, 1) == 0
    assert whole_levels(100, 64, 1) == 1


def test_bounds_of_leaves_do_not_depend_on_the_number_that_places_are_counted_from():
    points = np.random.default_rng(6).random((10, 2))
    start, stop = np.array([0, 4, 4]), np.array([4, 4, 10])
    for first in (0, 7):
        bounds = leaf_bounds(points, start + first, stop + first)
        np.testing.assert_array_equal(bounds.lower[[0, 2]], [points[:4].min(axis=0), points[4:].min(axis=0)])
        np.testing.assert_array_equal(bounds.upper[[0, 2]], [points[:4].max(axis=0), points[4:].max(axis=0)])
        assert (bounds.lower[1] > bounds.upper[1]).all()
