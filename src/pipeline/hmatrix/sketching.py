"""An H2 matrix from nothing but its products with random vectors.

Given Y = C X for random X, the far field of a box shows in Y P, where P spans the null space of X on the
box's near boxes: the near boxes' part of the sum vanishes [1]. An interpolative decomposition of Y P chooses
skeletons. Once the skeletons' share is subtracted from a box's redundant rows, only near boxes act on them,
so their near blocks follow from least squares. Only blocks between skeletons remain unknown. They form the
smaller matrix of the next level, of which samples are at hand: the same step is repeated up to the first
level with far boxes, where the matrix of all skeletons is solved for; then all blocks are unfolded on the
way down. The number of vectors is that of the unknowns in a box's near field, whatever n is.

References:
    [1] Levitt, Martinsson, "Linear-complexity black-box randomized compression of rank-structured matrices", SISC 2024:
        the null space and the least squares, there for weak admissibility.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.near_field import Array, adjoint, by_entries, by_least_squares

BoxArrays = dict[int, Array]  # one array per box of a level

_SURPLUS = 1.25  # vectors per near unknown: least squares then doubles the error of the bases
_LEAST_SURPLUS = 1.1  # for the few boxes with more neighbors than others: the error is then tripled
_FEW = 0.1  # share of these boxes
_SAMPLES = 1.5  # samples of the far field per rank,
_OVERSAMPLING = 12  # and their number beyond that


@dataclass(frozen=True, eq=False)
class BoxSketch:
    """What the sketch of one side has found about a box.

    Attributes:
        order: Local unknowns, skeletons first.
        rank: Number of skeletons.
        interpolation: T of shape (k, n - k): redundant unknowns through skeletons.
        residual: Shape (n - k, near unknowns): rows of the near blocks of redundant unknowns, less T^T times those of
            the skeletons.
        columns: The columns of `residual` that hold each near box's unknowns.
    """

    order: NDArray[np.int64]
    rank: int
    interpolation: Array
    residual: Array
    columns: dict[int, slice]

    @property
    def kept(self) -> NDArray[np.int64]:
        return self.order[: self.rank]

    @property
    def dropped(self) -> NDArray[np.int64]:
        return self.order[self.rank :]


@dataclass(eq=False)
class Side:
    """One side of the matrix: Y = C X by boxes of the rows, or Z = C^T X by boxes of the columns.

    Attributes:
        tree: Tree of the boxes whose bases this side gives.
        near: Near boxes, on the other side, of each.
        samples: Y by boxes of the level at work.
        tests: X by boxes of the other side.
        nodes: The nodes of all boxes done.
        weights: How much of a white-noise vector each unknown of a box carries.
        unit_vectors: Whether the tests are all unit vectors rather than random.
        entries: (box, near boxes) -> block of their unknowns, if entries of the matrix are known.
        largest_rank: Largest rank of the boxes done, which tells how many samples the next box will need.
        taken: Number of vectors that are used on the level at work.
        gram: Blocks X_a X_b^H of the tests of the level at work, as far as they have been needed.
    """

    tree: ClusterTree
    near: Lists
    samples: BoxArrays
    tests: BoxArrays
    nodes: dict[int, BoxSketch]
    weights: BoxArrays
    unit_vectors: bool = False
    entries: Callable[[int, list[int]], Array] | None = None
    largest_rank: int = 0
    taken: int = 0
    gram: dict[tuple[int, int], Array] = field(default_factory=dict)

    def near_boxes(self, box: int) -> list[int]:
        return [int(other) for other in self.near.boxes[self.near.start[box] : self.near.start[box + 1]]]

    def width(self, n: int) -> int:
        """Return the number of samples of the far field that a box of n unknowns begins with."""
        return min(int(_SAMPLES * self.largest_rank) + 2 * _OVERSAMPLING, 2 * n + _OVERSAMPLING)

    def needed(self, box: int, surplus: float = _SURPLUS) -> int:
        """Return the number of vectors that a box will need, judging by the ranks so far."""
        n_near = sum(len(self.tests[other]) for other in self.near_boxes(box)) if self.entries is None else 0
        return int(surplus * n_near) + self.width(len(self.samples[box]))

    def needed_by(self, boxes: Sequence[int]) -> int:
        """Return the number of vectors that boxes will need.

        Among many boxes, some have more neighbors than the others: these few do not decide for all.
        """
        usual = np.sort([self.needed(box) for box in boxes])[-1 - int(_FEW * len(boxes))]
        return max(int(usual), *(self.needed(box, _LEAST_SURPLUS) for box in boxes))

    def gram_of(self, boxes: list[int]) -> Array:
        """Return the lower triangle of X X^H for the tests X of some boxes; its blocks are kept for other boxes."""
        edges = np.cumsum([0, *(len(self.tests[box]) for box in boxes)])
        result = np.zeros((edges[-1], edges[-1]), dtype=self.tests[boxes[0]].dtype if boxes else float)
        for i, a in enumerate(boxes):
            for j, b in enumerate(boxes[: i + 1]):  # boxes are sorted
                if (a, b) not in self.gram:
                    taken = slice(self.taken)
                    self.gram[a, b] = self.tests[a][:, taken] @ adjoint(self.tests[b][:, taken])
                result[edges[i] : edges[i + 1], edges[j] : edges[j + 1]] = self.gram[a, b]
        return result


class TooFewVectors(Exception):
    """The sketch must grow to `needed` vectors."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"{needed} vectors are needed")
        self.needed = needed


def skeletonize(side: Side, box: int, budget: float) -> BoxSketch:
    """Choose the skeletons of a box and find the residual of its redundant rows.

    Args:
        side: The side, with samples and tests of the box's level.
        box: Its number.
        budget: Squared Frobenius norm that may be lost.

    Raises:
        TooFewVectors: If the near field and the rank together need more tests.
    """
    others = side.near_boxes(box)
    samples, tests = (
        side.samples[box][:, : side.taken],
        [side.tests[other][:, : side.taken] for other in others],
    )
    n = len(samples)
    edges = np.cumsum([0, *map(len, tests)])
    columns = {other: slice(edges[i], edges[i + 1]) for i, other in enumerate(others)}
    if side.entries is not None:
        near = by_entries(samples, tests, side.entries(box, others))
    else:
        near = by_least_squares(samples, tests, side.gram_of(others), unit_vectors=side.unit_vectors)
    triangle, order = _pivoted((near.far * side.weights[box][:, None]).T)
    rank = _rank(triangle, near.most, budget)
    side.largest_rank = max(side.largest_rank, rank)
    enough = min(int(_SAMPLES * rank), 2 * n) + _OVERSAMPLING
    if near.most < enough and not side.unit_vectors:
        surely = rank + _OVERSAMPLING <= near.most  # else the true rank may be larger
        raise TooFewVectors(side.needed(box) + (enough - near.most if surely else enough))
    interpolation = scipy.linalg.solve_triangular(
        triangle[:rank, :rank], triangle[:rank, rank:], check_finite=False
    )
    kept, dropped = order[:rank], order[rank:]
    interpolation *= side.weights[box][kept, None] / side.weights[box][dropped]
    return BoxSketch(order, rank, interpolation, near.residual(kept, dropped, interpolation), columns)


def _pivoted(rows: Array) -> tuple[Array, NDArray[np.int64]]:
    """Return R and the order of columns of a pivoted QR decomposition."""
    if rows.size == 0:
        return rows, np.arange(rows.shape[1])
    if len(rows) > 2 * rows.shape[1]:  # pivoting is slow: let it see no more rows than columns
        rows = scipy.linalg.qr(rows, mode="r", check_finite=False)[0][: rows.shape[1]]
    triangle, order = scipy.linalg.qr(rows, mode="r", pivoting=True, check_finite=False)
    return triangle, order.astype(np.int64)


def _rank(triangle: Array, n_samples: int, budget: float) -> int:
    """Return the smallest rank whose error, estimated from the samples that are not fitted, is within budget."""
    lost = np.append(np.cumsum((np.abs(triangle) ** 2).sum(axis=1)[::-1])[::-1], 0.0)
    free = np.maximum(n_samples - np.arange(len(lost)), 1)
    return int(np.argmax(lost / free <= budget))


def reduce(side: Side, opposite: Side, samples: BoxArrays, tests: BoxArrays) -> tuple[BoxArrays, BoxArrays]:
    """Return samples and tests between the skeletons of a level, from those of its unknowns.

    Where side is that of the rows: X^_s = X_s[kept] + T_s X_s[dropped], and
    Y^_t = Y_t[kept] - sum over near s of (C[kept_t, dropped_s] - C[kept_t, kept_s] T_s) X_s[dropped].
    """
    smaller = {}
    for box, sample in samples.items():
        kept = side.nodes[box].kept
        total = sample[kept]
        for other in side.near_boxes(box):
            node = opposite.nodes[other]
            total = total - node.residual[:, node.columns[box]][:, kept].T @ tests[other][node.dropped]
        smaller[box] = total
    nodes = opposite.nodes
    carried = {
        box: test[nodes[box].kept] + nodes[box].interpolation @ test[nodes[box].dropped]
        for box, test in tests.items()
    }
    return smaller, carried


def merged(tree: ClusterTree, level: int, parts: BoxArrays) -> BoxArrays:
    """Return the arrays of the boxes of a level, those of their children one below the other."""
    return {
        box: np.concatenate(
            [parts[child] for child in range(tree.first_child[box], tree.first_child[box] + tree.arity)]
        )
        for box in tree.level(level)
    }


def leaves(tree: ClusterTree, vectors: Array) -> BoxArrays:
    """Return the rows of vectors in tree order by leaves."""
    return {box: vectors[tree.start[box] : tree.stop[box]] for box in tree.level(tree.n_levels - 1)}


def merged_weights(side: Side, level: int) -> BoxArrays:
    """Return the weights of the unknowns of a level from those of the one below."""
    carried = {}
    for box, weights in side.weights.items():
        node = side.nodes[box]
        squares = weights[node.kept] ** 2 + np.abs(node.interpolation) ** 2 @ weights[node.dropped] ** 2
        carried[box] = np.sqrt(squares)
    return merged(side.tree, level, carried)
