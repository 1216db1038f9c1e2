"""Checks of an H2 matrix that comes from a file, before native routines follow its indices."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.skeleton import Basis, unknowns


def require_sound(A: H2Form) -> None:
    """Raise ValueError, naming the array, unless all indices, counts and lengths of a form fit together."""
    for name, tree in (("rows", A.rows), ("columns", A.columns)):
        _tree(tree, name)
    for name, basis, tree in (
        ("row_basis", A.row_basis, A.rows),
        ("column_basis", A.column_basis, A.columns),
    ):
        _basis(basis, tree, name)
    lists = A.interactions
    for name, own, other in (
        ("near", A.rows, A.columns),
        ("far", A.rows, A.columns),
        ("near_columns", A.columns, A.rows),
        ("far_columns", A.columns, A.rows),
    ):
        _lists(getattr(lists, name), own, other, f"interactions.{name}")
    leaves = [np.where(tree.first_child < 0, tree.stop - tree.start, 0) for tree in (A.rows, A.columns)]
    _blocks(A.near, leaves[0], leaves[1], "near")
    _blocks(A.far, A.row_basis.rank, A.column_basis.rank, "far")
    if A.diagonal_term is not None:
        _require(
            A.diagonal_term.shape == (A.shape[0],), "diagonal_term", "has another length than the matrix"
        )
    if A.correction is not None:
        A.correction.check_format(full_check=True)


def _require(holds: Any, name: str, what: str) -> None:
    if not holds:
        raise ValueError(f"{name} {what}")


def _within(values: NDArray[Any], low: int, high: int, name: str) -> None:
    _require(
        values.size == 0 or (values.min() >= low and values.max() < high),
        name,
        f"has entries outside {low} to {high - 1}",
    )


def _tree(tree: ClusterTree, name: str) -> None:
    n, n_boxes = len(tree.points), len(tree.start)
    for part in ("start", "stop", "parent", "first_child"):
        _require(
            getattr(tree, part).shape == (n_boxes,), f"{name}.{part}", "is not as long as there are boxes"
        )
    for part in ("lower", "upper"):
        _require(
            getattr(tree, part).shape == (n_boxes, tree.points.shape[1]),
            f"{name}.{part}",
            "has a wrong shape",
        )
    _require(
        tree.permutation.shape == (n,) and np.array_equal(np.sort(tree.permutation), np.arange(n)),
        f"{name}.permutation",
        "is no permutation of the points",
    )
    levels = tree.level_start
    _require(
        len(levels) >= 2 and levels[0] == 0 and levels[-1] == n_boxes and (np.diff(levels) >= 0).all(),
        f"{name}.level_start",
        "does not divide the boxes",
    )
    _within(tree.start, 0, n + 1, f"{name}.start")
    _within(tree.stop, 0, n + 1, f"{name}.stop")
    for level in range(len(levels) - 1):
        boxes = slice(int(levels[level]), int(levels[level + 1]))
        start, stop = tree.start[boxes], tree.stop[boxes]
        ends = len(start) > 0 and start[0] == 0 and stop[-1] == n
        _require(
            ends and (start <= stop).all() and np.array_equal(start[1:], stop[:-1]),
            f"{name}.start",
            f"does not divide the points on level {level}",
        )
    last = int(levels[-2])
    inner = tree.first_child[:last]
    _require((tree.first_child[last:] == -1).all(), f"{name}.first_child", "gives children to leaves")
    _within(inner, 0, n_boxes - tree.arity + 1, f"{name}.first_child")
    _require((tree.parent[: int(levels[1])] == -1).all(), f"{name}.parent", "is not -1 at the top")
    children = inner[:, None] + np.arange(tree.arity)
    _require(
        len(inner) == 0
        or np.array_equal(tree.parent[children], np.broadcast_to(np.arange(last)[:, None], children.shape)),
        f"{name}.parent",
        "is not that of first_child",
    )


def _basis(basis: Basis, tree: ClusterTree, name: str) -> None:
    _require(basis.rank.shape == (tree.n_boxes,), f"{name}.rank", "is not as long as there are boxes")
    _within(basis.rank, 0, tree.n_points + 1, f"{name}.rank")
    counts = unknowns(tree, basis.rank)
    _require((basis.rank <= counts).all(), f"{name}.rank", "is larger than a box has unknowns")
    _require(
        np.array_equal(basis.order_start, _starts(counts)),
        f"{name}.order_start",
        "does not count the unknowns",
    )
    _require(basis.order.shape == (int(counts.sum()),), f"{name}.order", "has a wrong length")
    # Each box's own permutation, moved to its place, makes one of all.
    moved = basis.order + np.repeat(basis.order_start[:-1], counts)
    within = (basis.order >= 0).all() and (basis.order < np.repeat(counts, counts)).all()
    _require(
        within and np.array_equal(np.sort(moved), np.arange(len(moved))),
        f"{name}.order",
        "is no permutation of a box's unknowns",
    )
    _require(basis.skeletons.shape == (int(basis.rank.sum()),), f"{name}.skeletons", "has a wrong length")
    _within(basis.skeletons, 0, tree.n_points, f"{name}.skeletons")
    _require(
        basis.values.shape == (int((basis.rank * (counts - basis.rank)).sum()),),
        f"{name}.values",
        "has a wrong length",
    )


def _lists(lists: Lists, own: ClusterTree, other: ClusterTree, name: str) -> None:
    start = lists.start
    _require(
        start.shape == (own.n_boxes + 1,)
        and start[0] == 0
        and start[-1] == len(lists.boxes)
        and (np.diff(start) >= 0).all(),
        f"{name}.start",
        "does not divide the boxes of the lists",
    )
    _within(lists.boxes, 0, other.n_boxes, f"{name}.boxes")


def _blocks(blocks: Blocks, rows: NDArray[Any], columns: NDArray[Any], name: str) -> None:
    _require(blocks.first.shape == blocks.second.shape, f"{name}.first", "is not as long as second")
    _within(blocks.first, 0, len(rows), f"{name}.first")
    _within(blocks.second, 0, len(columns), f"{name}.second")
    sizes = rows[blocks.first].astype(np.int64) * columns[blocks.second]
    _require(
        np.array_equal(blocks.start, _starts(sizes)),
        f"{name}.start",
        "does not count the entries of the blocks",
    )
    _require(blocks.values.shape == (int(sizes.sum()),), f"{name}.values", "has a wrong length")


def _starts(counts: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
