import numpy as np
import pytest

from pipeline.hmatrix.admissibility import Strong, Weak, interactions, pairs_of
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
