from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.hmatrix.admissibility import Strong, Weak, as_admissibility, interactions, pairs_of
from pipeline.hmatrix.cluster import build_tree

POINTS = {
    "plane": lambda g: g.random((700, 2)),
    "clusters": lambda g: np.concatenate([g.random((300, 2)), 1e-4 * g.random((400, 2))]),
    "one place": lambda g: np.zeros((700, 2)),
    "line in space": lambda g: np.linspace(0, 1, 700)[:, None] * np.ones(3),
}


def trees(name):
    points = POINTS[name](np.random.default_rng(0))
    return build_tree(points, halvings=6, halvings_per_level=2)


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("rule", [Strong(), Weak()])
def test_near_leaf_pairs_and_far_pairs_tile_the_matrix(name, rule):
    tree = trees(name)
    lists = interactions(tree, tree, rule)
    covered = np.zeros((tree.n_points, tree.n_points), dtype=int)
    leaves = tree.level_start[-2]
    for kind in (lists.near, lists.far):
        first, second = pairs_of(kind, mirrored=False)
        for b, c in zip(first, second, strict=True):
            if kind is lists.far or b >= leaves:
                covered[tree.start[b] : tree.stop[b], tree.start[c] : tree.stop[c]] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("name", POINTS)
def test_mirrored_pairs_stand_for_both_ways(name):
    tree = trees(name)
    lists = interactions(tree, tree, Strong())
    for kind in (lists.near, lists.far):
        everything = set(zip(*pairs_of(kind, mirrored=False), strict=True))
        half = set(zip(*pairs_of(kind, mirrored=True), strict=True))
        assert everything == half | {(c, b) for b, c in half}


def test_strong_far_boxes_are_apart_by_their_size():
    tree = trees("clusters")
    rule = Strong(separation=0.7)
    first, second = pairs_of(interactions(tree, tree, rule).far, mirrored=False)
    for b, c in zip(first[:500], second[:500], strict=True):
        x, y = (tree.points[tree.start[i] : tree.stop[i]] for i in (b, c))
        distance = np.sqrt(((x[:, None] - y) ** 2).sum(axis=2)).min()
        assert distance > 0.7 * min(tree.diameters[b], tree.diameters[c])


def test_near_boxes_of_scattered_points_are_boundedly_many():
    counts = []
    for halvings in (6, 8):
        tree = build_tree(
            np.random.default_rng(0).random((2**halvings * 8, 2)), halvings=halvings, halvings_per_level=2
        )
        counts.append(interactions(tree, tree, Strong()).near.counts[tree.level_start[-2] :].max())
    assert counts[1] <= 1.5 * counts[0]


def test_boxes_at_one_place_are_near_to_themselves_only():
    tree = trees("one place")
    near = interactions(tree, tree, Strong()).near
    assert near.counts.max() == 1


def test_trees_of_different_depth_are_refused():
    points = np.random.default_rng(0).random((100, 2))
    shallow, deep = (build_tree(points, halvings=h, halvings_per_level=1) for h in (2, 3))
    with pytest.raises(ValueError, match="depth"):
        interactions(shallow, deep, Strong())


def test_boxes_are_far_beyond_half_of_the_smaller_diameter_unless_told_otherwise():
    boxes = SimpleNamespace(
        lower=np.array([[0.0], [1.49], [1.51]]),
        upper=np.array([[1.0], [2.99], [3.01]]),
        diameters=np.array([1.0, 1.5, 1.5]),
    )
    first, second = np.array([0, 0]), np.array([1, 2])
    np.testing.assert_array_equal(Strong().far(boxes, boxes, first, second), [False, True])
    np.testing.assert_array_equal(Strong(separation=1.0).far(boxes, boxes, first, second), [False, False])


def test_the_uppermost_level_with_far_pairs_is_that_of_their_first_boxes():
    tree = trees("plane")
    lists = interactions(tree, tree, Strong())
    level = lists.first_far_level(tree)
    first, _ = pairs_of(lists.far, mirrored=False)
    assert tree.level_start[level] <= min(first) < tree.level_start[level + 1]
    none_far = interactions(tree, tree, Strong(separation=1e9))
    assert none_far.first_far_level(tree) == tree.n_levels


@pytest.mark.parametrize(
    ("given", "rule"), [(None, None), ("weak", Weak()), ("strong", Strong()), (Weak(), Weak())]
)
def test_a_rule_is_given_by_name_or_as_it_is(given, rule):
    assert as_admissibility(given) == rule


def test_a_rule_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r'"weak" or None, not \'near\''):
        as_admissibility("near")


@pytest.mark.parametrize("turned", [False, True])
def test_pairs_of_two_trees_tile_a_rectangular_matrix_and_leave_empty_boxes_out(turned):
    few = build_tree(np.random.default_rng(1).random((41, 2)), halvings=6, halvings_per_level=2)
    assert (few.start == few.stop).any()
    rows, columns = (few, trees("plane")) if turned else (trees("plane"), few)
    lists = interactions(rows, columns, Strong())
    covered = np.zeros((rows.n_points, columns.n_points), dtype=int)
    leaves = rows.level_start[-2]
    for kind in (lists.near, lists.far):
        first, second = pairs_of(kind, mirrored=False)
        assert (rows.stop > rows.start)[first].all()
        assert (columns.stop > columns.start)[second].all()
        for b, c in zip(first, second, strict=True):
            if kind is lists.far or b >= leaves:
                covered[rows.start[b] : rows.stop[b], columns.start[c] : columns.stop[c]] += 1
    assert (covered == 1).all()
    for by_rows, by_columns in ((lists.near, lists.near_columns), (lists.far, lists.far_columns)):
        first, second = pairs_of(by_rows, mirrored=False)
        turned_second, turned_first = pairs_of(by_columns, mirrored=False)
        pairs = sorted(zip(first.tolist(), second.tolist(), strict=True))
        assert sorted(zip(turned_first.tolist(), turned_second.tolist(), strict=True)) == pairs
