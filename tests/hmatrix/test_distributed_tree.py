import numpy as np
import pytest

from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import Strong, Weak, interactions
from pipeline.hmatrix.cluster import build_tree
from pipeline.hmatrix.distributed.tree import build_tree as build_together
from pipeline.runtime.communicator import run_in_threads

POINTS = {
    "square": lambda rng: rng.random((501, 2)),
    "cube": lambda rng: rng.standard_normal((300, 3)),
    "line": lambda rng: rng.random((97, 1)),
    "few places": lambda rng: rng.integers(0, 3, (400, 2)).astype(float),  # duplicates on every seam
    "one place": lambda rng: np.zeros((64, 2)),
    "signed zeros": lambda rng: rng.choice([0.0, -0.0, 1.0], (130, 2)),
    "three": lambda rng: rng.random((3, 2)),
    "none": lambda rng: np.zeros((0, 2)),
}


def split(n, n_processes, how, rng):
    """Return the edges of the processes' rows."""
    if how == "all on one":
        return np.where(np.arange(n_processes + 1) > n_processes // 2, n, 0)
    return np.concatenate([[0], np.sort(rng.integers(0, n + 1, n_processes - 1)), [n]])


def boxes_of(start, stop, permutation):
    return [sorted(permutation[a:b].tolist()) for a, b in zip(start, stop, strict=True)]


@pytest.mark.parametrize(
    ("n_processes", "how"), [(1, "anyhow"), (2, "anyhow"), (9, "anyhow"), (5, "all on one")]
)
@pytest.mark.parametrize("name", POINTS)
def test_the_boxes_are_those_of_one_process_however_the_rows_are_split(name, n_processes, how):
    rng = np.random.default_rng(0)
    points = POINTS[name](rng)
    halvings, per_level = (5, 2) if points.shape[1] < 3 else (6, 3)
    metric = np.linspace(1.0, 3.0, points.shape[1])
    expected = build_tree(points, halvings=halvings, halvings_per_level=per_level, metric=metric)
    edges = split(len(points), n_processes, how, rng)

    def work(comm):
        own = points[edges[comm.rank] : edges[comm.rank + 1]]
        found, route = build_together(
            own, comm, halvings=halvings, halvings_per_level=per_level, metric=metric
        )
        division, lists = found.division(Strong(), comm)
        assert np.array_equal(points[division.tree.permutation], division.tree.points)
        numbers = np.arange(edges[comm.rank], edges[comm.rank + 1])
        there = route.there(comm, numbers)
        assert np.array_equal(there, division.tree.permutation)
        assert np.array_equal(route.back(comm, there), numbers)
        return division, lists

    found = run_in_threads(n_processes, work)
    permutation = np.concatenate([division.tree.permutation for division, _ in found])
    every = interactions(expected, expected, Strong())
    for division, lists in found:
        tree, numbers = division.tree, division.numbers
        assert boxes_of(tree.start, tree.stop, permutation) == boxes_of(
            expected.start[numbers], expected.stop[numbers], expected.permutation
        )
        for name in ("lower", "upper"):
            np.testing.assert_array_equal(getattr(tree, name), getattr(expected, name)[numbers])
        below = tree.parent >= 0
        np.testing.assert_array_equal(numbers[tree.parent[below]], expected.parent[numbers[below]])
        np.testing.assert_array_equal(tree.first_child < 0, expected.first_child[numbers] < 0)
        levels = [
            np.searchsorted(starts, boxes, side="right")
            for starts, boxes in (
                (expected.level_start, numbers),
                (tree.level_start, np.arange(len(numbers))),
            )
        ]
        np.testing.assert_array_equal(*levels)
        assert division.whole.n_boxes == expected.n_boxes
        assert division.last - division.first == len(tree.points)
        assert (division.owner[division.n_top :] >= 0).all()
        with_lists = np.flatnonzero(division.is_own | (division.owner < 0))
        for own, whole in ((lists.near, every.near), (lists.far, every.far)):
            for box in with_lists:
                members = numbers[own.boxes[slice(*own.start[box : box + 2])]]
                np.testing.assert_array_equal(members, whole.boxes[slice(*whole.start[numbers[box] :][:2])])


@pytest.mark.parametrize("rule", [Strong(), Strong(separation=2.0), Weak()])
@pytest.mark.parametrize("name", ["square", "cube", "line", "few places"])
def test_samples_of_the_far_field_are_those_of_the_whole_tree(name, rule):
    """They enter boxes of others, and boxes that these have below them, which a process has to know."""
    points = POINTS[name](np.random.default_rng(0))
    halvings, per_level = (6, 2) if points.shape[1] < 3 else (6, 3)
    whole = build_tree(points, halvings=halvings, halvings_per_level=per_level)
    every = interactions(whole, whole, rule).far

    def samples(tree, far, boxes, n_rows):
        boxes = np.asarray(boxes, np.int32)
        return _native.sample_far(tree.native, tree.native, far.start, far.boxes, boxes, n_rows, 0)

    def work(comm):
        own, _ = build_together(
            np.array_split(points, 5)[comm.rank], comm, halvings=halvings, halvings_per_level=per_level
        )
        division, lists = own.division(rule, comm)
        sampled = division.is_own | ((division.owner < 0) & (comm.rank == 0))
        boxes = np.flatnonzero(sampled & (division.tree.stop > division.tree.start))
        for n_rows in (4.0, 30.0):
            wanted = samples(whole, every, division.numbers[boxes], n_rows)
            for one, other in zip(samples(division.tree, lists.far, boxes, n_rows), wanted, strict=True):
                np.testing.assert_array_equal(one, other)
        return len(division.numbers)

    assert max(run_in_threads(5, work)) <= whole.n_boxes


def test_a_process_knows_as_many_boxes_whatever_others_have():
    """Of points on a circle, where every process has two neighbors."""

    def known(n_processes):
        def work(comm):
            angles = 2 * np.pi * (comm.rank + np.random.default_rng(comm.rank).random(600)) / n_processes
            points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
            halvings = int(np.log2(n_processes)) + 6
            own, _ = build_together(points, comm, halvings=halvings, halvings_per_level=2)
            division, lists = own.division(Strong(), comm)
            low, high = division.range_of(division.whole.n_levels - 1)
            near = len(lists.near.boxes) - lists.near.start[division.n_top]
            return len(division.numbers) - division.whole.level_start[division.cut + 1], near, high - low

        return np.array(run_in_threads(n_processes, work)).max(axis=0)

    few, many = known(4), known(16)
    assert few[2] == many[2] == 64
    assert (many <= 1.15 * few).all(), (few, many)
