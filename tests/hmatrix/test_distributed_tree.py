import numpy as np
import pytest

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
        division, route = build_together(
            own, comm, halvings=halvings, halvings_per_level=per_level, metric=metric
        )
        assert np.array_equal(points[division.tree.permutation], division.tree.points)
        numbers = np.arange(edges[comm.rank], edges[comm.rank + 1])
        there = route.there(comm, numbers)
        assert np.array_equal(there, division.tree.permutation)
        assert np.array_equal(route.back(comm, there), numbers)
        return division

    divisions = run_in_threads(n_processes, work)
    permutation = np.concatenate([division.tree.permutation for division in divisions])
    for division in divisions:
        tree = division.tree
        assert boxes_of(tree.start, tree.stop, permutation) == boxes_of(
            expected.start, expected.stop, expected.permutation
        )
        for name in ("lower", "upper", "parent", "first_child", "level_start"):
            np.testing.assert_array_equal(getattr(tree, name), getattr(expected, name))
        assert division.last - division.first == len(tree.points)
        assert (division.owner[division.n_top :] >= 0).all()
