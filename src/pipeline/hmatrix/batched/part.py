"""A part whose boxes are eliminated in batches on a device, beside others that eliminate theirs natively.

It does what `Part` of native/eliminate.hpp does, by the same messages: records of boxes that it eliminated, blocks and
unknowns that are handed over. The boxes of a phase are taken color by color, as elimination.py takes those of a level.
Steps come to the host in the layout of native/eliminate.hpp, so that solves are the same for both kinds of parts.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.batched.blocks import LevelMatrix, Unknowns
from pipeline.hmatrix.batched.bucket import BrokenDown, Recorded, eliminate_bucket
from pipeline.hmatrix.batched.coloring import colors, near_of_level, within_two_steps
from pipeline.hmatrix.batched.compression import BoxBases, FarField, compress
from pipeline.hmatrix.batched.kernel import Kept, KeptEntries, MissingPoint
from pipeline.hmatrix.batched.padding import Integers, buckets, ranges, to_device, to_host
from pipeline.hmatrix.batched.precision import full_precision
from pipeline.hmatrix.batched.records import RecordArrays, Records, Shapes, StepArrays, native_steps
from pipeline.hmatrix.batched.steps import Elimination
from pipeline.hmatrix.cluster import ClusterTree, Ints
from pipeline.hmatrix.inputs import torch_dtype
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.skeleton import FarSampling

_KINDS = ("cholesky", "ldlt", "lu")  # as native/eliminate.hpp numbers them
_UPDATES = 2  # what others are told of a box, as native/eliminate.hpp numbers it
_NOTHING = np.zeros(0, np.int32)


class BatchedPart:
    """Boxes of one level at a time: own boxes, and ghosts, whose unknowns and blocks with own boxes are kept.

    Attributes:
        flops: Operations of eliminations, without those of evaluation and compression.
        peak_bytes: Largest number of bytes of blocks and steps held at a time.
    """

    def __init__(
        self,
        kernel: Kernel,
        tree: ClusterTree,
        near: Lists,
        far: Lists,
        kind: int,
        working: np.dtype[Any],
        stored: np.dtype[Any],
        sampling: FarSampling,
        device: torch.device,
    ) -> None:
        self._kernel, self._tree, self._near_lists, self._device = kernel, tree, near, device
        self._field = FarField(tree, tree, far, sampling)
        self._kind, self._working, self._stored = _KINDS[kind], working, stored
        self._n_points = int(tree.stop.max(initial=0))
        self._owned = 0, 0
        self._told: dict[int, Ints] = {}  # unknowns of boxes that are not in the matrix
        self._given: dict[
            tuple[int, int], tuple[NDArray[Any], NDArray[Any] | None]
        ] = {}  # blocks of such boxes
        self._matrix: LevelMatrix | None = None
        self._records = Records(stored)
        self._recorded = Recorded([], [], np.zeros(3, np.int32))
        self._shapes: list[Shapes] = []
        self._step_bytes = 0
        self.flops, self.peak_bytes = 0.0, 0
        self._begin(tree.n_levels - 1)

    def _begin(self, level: int) -> None:
        """Begin a level, of which nothing is known yet."""
        self._level, self._first = level, int(self._tree.level_start[level])
        self._n_boxes = int(self._tree.level_start[level + 1]) - self._first
        near = near_of_level(self._tree, self._near_lists, level)
        # Lists of boxes two near-steps from own ones may be missing: lists of their near boxes have the same pairs.
        self._near = csr_array(near.maximum(near.T))
        self._coupled = within_two_steps(self._near)
        self._color = np.zeros(self._n_boxes, np.int64)

    def keep(self, kept: Kept, diagonal: NDArray[Any]) -> None:
        """Use entries between these points, and their diagonal term, from now on."""
        self._entries = KeptEntries(
            self._kernel, kept, diagonal, self._n_points, torch_dtype(self._working), self._device
        )

    def own(self, first: int, last: int) -> None:
        """Own the boxes first to last - 1, as the tree numbers them."""
        self._owned = first, last

    def set_points(self, boxes: Ints, start: NDArray[np.int64], points: Ints) -> None:
        """Learn the unknowns of boxes, flat: box i's are points[start[i]] to points[start[i + 1] - 1]."""
        for box, low, high in zip(boxes.tolist(), start[:-1].tolist(), start[1:].tolist(), strict=True):
            self._told[box] = points[low:high].astype(np.int32)

    def points(self, boxes: Ints) -> tuple[NDArray[np.int64], Ints]:
        """Return the unknowns of boxes, as `set_points` takes them."""
        found = self._lists(boxes)
        start = np.concatenate([[0], np.cumsum([len(part) for part in found], dtype=np.int64)]).astype(
            np.int64
        )
        return start, np.concatenate([_NOTHING, *found])

    def unknowns(self, first: int, last: int) -> int:
        """Return the number of unknowns of boxes first to last - 1."""
        return sum(len(part) for part in self._lists(np.arange(first, last)))

    def _lists(self, boxes: NDArray[Any]) -> list[Ints]:
        """Return the unknowns of each box."""
        matrix = self._matrix
        if matrix is None:
            return [self._told.get(box, _NOTHING) for box in boxes.tolist()]
        places = to_host(matrix.points[matrix.alive]).astype(np.int32)

        def kept(box: int) -> Ints:
            b = box - self._first
            return places[matrix.start[b] : matrix.start[b] + matrix.size[b]]

        return [self._told[box] if box in self._told else kept(box) for box in boxes.tolist()]

    def _level_matrix(self, touched: csr_array | None = None) -> LevelMatrix:
        """Return the matrix between the known unknowns of the level, in the blocks of own boxes."""
        sizes = np.zeros(self._n_boxes, np.int64)
        boxes = sorted(self._told)
        sizes[np.array(boxes, np.int64) - self._first] = [len(self._told[box]) for box in boxes]
        start = np.concatenate([[0], np.cumsum(sizes)])
        flat = np.concatenate([*(self._told[box] for box in boxes), [self._n_points]]).astype(np.int64)
        pairs = coo_array(self._coupled if touched is None else csr_array(self._coupled + touched))
        low, high = self._owned[0] - self._first, self._owned[1] - self._first
        own = np.zeros(self._n_boxes, bool)
        own[max(low, 0) : max(high, 0)] = True
        held = own[pairs.coords[0]] | own[pairs.coords[1]]
        stored = coo_array(
            (np.ones(int(held.sum()), np.int64), tuple(axis[held] for axis in pairs.coords)),
            shape=pairs.shape,
        )
        return LevelMatrix(
            lambda rows, columns: self._entries(rows, columns), lambda places: self._entries.diagonal(places),
            to_device(flat, self._device), start, csr_array(stored),
            symmetric=self._kind != "lu", dtype=torch_dtype(self._working),
        )  # fmt: skip

    def _current(self) -> LevelMatrix:
        if self._matrix is None:
            self._matrix = self._level_matrix()
            self._told = {}
            self._note()
        return self._matrix

    def _note(self, more: int = 0) -> None:
        held = 0 if self._matrix is None else self._matrix.values.numel() * self._matrix.values.element_size()
        self.peak_bytes = max(self.peak_bytes, held + more + self._step_bytes)

    def arranged(self, boxes: Ints) -> Ints:
        """Return boxes in the order in which `eliminate` takes them."""
        present = np.zeros(self._n_boxes, bool)
        present[boxes - self._first] = True
        found = colors(self._coupled, present)
        for color, members in enumerate(found):
            self._color[members] = color
        return (self._first + np.concatenate([_NOTHING, *found])).astype(np.int32)

    @full_precision()
    def eliminate(
        self, boxes: Ints, told: Ints, watch: "_native.Watch", watching: bool
    ) -> tuple[int, tuple[int, float] | None]:
        """Eliminate own boxes, as `arranged` orders them; arguments and results as those of the native `Part`."""
        local = boxes.astype(np.int64) - self._first
        done = 0
        for run in np.split(np.arange(len(local)), np.flatnonzero(np.diff(self._color[local])) + 1):
            try:
                self._eliminate_color(local[run], told[run])
            except MissingPoint:  # nothing of this color has been touched yet
                return done, None
            except BrokenDown as broken:
                return done, (broken.place, broken.pivot)
            self._records.list(boxes[run])
            done += len(run)
        return done, None

    def _eliminate_color(self, boxes: Integers, told: Ints) -> None:
        matrix = self._current()
        filled = matrix.size[boxes] > 0
        boxes, told = boxes[filled], told[filled]
        if len(boxes) == 0:
            return
        indptr, indices = self._near.indptr, self._near.indices
        parts = ranges(indptr[boxes], np.diff(indptr)[boxes], -1)
        parts = np.where(parts >= 0, indices[parts], -1)
        n, width = matrix.size[boxes], np.where(parts >= 0, matrix.size[parts], 0).sum(axis=1)
        groups = list(buckets(n, int(self._field.sampling.rows) + width))
        # All of a color are compressed before any is eliminated.
        bases = [compress(matrix, boxes[group], parts[group], self._field, self._first) for group in groups]
        for group, basis in zip(groups, bases, strict=True):
            outer = width[group] - n[group] + basis.rank
            for bucket in buckets(outer, outer):
                at = group[bucket]
                shapes = Shapes(n[at] - basis.rank[bucket], basis.rank[bucket], width[at] - n[at])
                self._eliminate_bucket(boxes[at], parts[at], told[at], basis.part(bucket, n[group]), shapes)
            table = [len(group), int(n[group].sum()), int(basis.rank.sum())]
            self._recorded.table += np.array(table, np.int32)

    def _eliminate_bucket(
        self, boxes: Integers, near: Integers, told: Ints, basis: BoxBases, shapes: Shapes
    ) -> None:
        matrix, recorded = self._current(), self._recorded
        before = matrix.unknowns(boxes[:, None]).index
        places = (basis.skeletons.index[:, :, None] == before[:, None, :]).int().argmax(dim=2)
        others = np.where(near == boxes[:, None], -1, near)
        update = eliminate_bucket(
            self._kind, torch_dtype(self._stored), matrix, boxes, others, basis, recorded,
            to_device(told == _UPDATES, self._device),
        )  # fmt: skip
        # Boxes without redundant unknowns have no record: their unknowns stay in the order that others know.
        whole = np.flatnonzero(shapes.d == 0)
        matrix.keep(
            boxes[whole], shapes.k[whole], Unknowns(before[:0], before[to_device(whole, self._device)])
        )
        if len(recorded.eliminations) > len(self._shapes):
            self._shapes.append(shapes)
            self._step_bytes += recorded.eliminations[-1].n_bytes
        d, k, r = (side.astype(np.float64) for side in (shapes.d, shapes.k, shapes.k + shapes.width))
        self.flops += float((d**3 / 3 + 2 * r * d * k + r * d**2 + r**2 * d).sum())
        self._note()
        if told.any():
            heard = np.flatnonzero(told)
            index = to_device(heard, self._device)
            left, right = update[0][index], None if self._kind == "cholesky" else update[1][index]
            chosen = Shapes(shapes.d[heard], shapes.k[heard], shapes.width[heard])
            self._records.add(
                boxes[heard] + self._first, chosen, places[index], (left, right), told[heard] == _UPDATES,
                basis.T.shape[1],
            )  # fmt: skip

    def take(self) -> tuple[list[StepArrays], RecordArrays]:
        """Return the steps and the records since the last call, as the native `Part` does."""
        return self._hand_out(), self._records.take()

    def _hand_out(self) -> list[StepArrays]:
        recorded, shapes = self._recorded, self._shapes
        self._recorded, self._shapes = Recorded([], [], np.zeros(3, np.int32)), []
        if not recorded.table.any():
            return []
        found: list[tuple[Elimination, Shapes]] = list(zip(recorded.eliminations, shapes, strict=True))
        return [native_steps(found, recorded.determinant, recorded.table, self._stored)]

    @full_precision()
    def apply(self, ints: Ints, values: NDArray[Any]) -> None:
        """Apply other parts' records to the blocks of this part."""
        matrix, at, value = self._current(), 0, 0
        while at < len(ints):
            box, n, k, n_rows, with_update = ints[at : at + 5].tolist()
            b, order = box - self._first, ints[at + 5 : at + 5 + k]
            at += 5 + k
            if matrix.size[b] != n:
                raise RuntimeError("another part's record has another size than the box here")
            slots = to_device(matrix.start[b] + order.astype(np.int64), self._device)
            matrix.alive[int(matrix.start[b]) : int(matrix.start[b]) + k] = matrix.alive[slots]
            matrix.size[b] = k
            if not with_update:
                continue
            near = self._near.indices[self._near.indptr[b] : self._near.indptr[b + 1]]
            parts = np.concatenate([[b], near[(near != b) & (matrix.size[near] > 0)]]).astype(np.int64)[None]
            N = matrix.unknowns(parts)
            if N.index.shape[1] != n_rows:
                raise RuntimeError(
                    "another part's record has another size than the neighbors of its box here"
                )
            sides = []
            for _ in range(1 if self._kind == "cholesky" else 2):
                flat = values[value : value + n_rows * (n - k)].reshape(n - k, n_rows)
                sides.append(to_device(flat, self._device).to(matrix.dtype).mT)
                value += n_rows * (n - k)
            pairs = matrix.table(parts, parts)
            matrix.subtract(to_device(pairs, self._device), N, N, (sides[0] @ sides[-1].mT)[None])
            matrix.touch(pairs)

    def blocks(self, first: int, last: int, not_first: int, not_last: int) -> tuple[Ints, NDArray[Any]]:
        """Return touched blocks of boxes first to last - 1, as the native `Part` does."""
        matrix, ints, values = self._current(), [_NOTHING], [np.zeros(0, self._working)]
        p, q = matrix.first + self._first, matrix.second + self._first
        p_in, q_in = ((first <= box) & (box < last) for box in (p, q))
        # A block whose first box alone is outside comes from that box's part, if it is among `not_first` to `not_last`.
        by_other = q_in & ~p_in & (not_first <= p) & (p < not_last)
        chosen = np.flatnonzero(matrix.touched[:-1] & (p <= q) & (p_in | q_in) & ~by_other)
        for pair in chosen.tolist():
            i, j = int(matrix.first[pair]), int(matrix.second[pair])
            sides = [self._block(i, j)]
            if self._kind == "lu" and i != j:
                sides.append(self._block(j, i).T)
            ints.append(np.array([p[pair], q[pair], *sides[0].shape], np.int32))
            values += [side.T.ravel() for side in sides]
        return np.concatenate(ints), np.concatenate(values)

    def _block(self, i: int, j: int) -> NDArray[Any]:
        """Return the block of two boxes of the level."""
        matrix = self._current()
        one, other = (np.array([[box]], np.int64) for box in (i, j))
        table = to_device(matrix.table(one, other), self._device)
        return to_host(matrix.read(table, matrix.unknowns(one), matrix.unknowns(other))[0])

    def add_blocks(self, ints: Ints, values: NDArray[Any]) -> None:
        """Take over blocks, as the native `Part` gives them, for the level that follows."""
        matrix, at = self._current(), 0
        for p, q, m, n in ints.reshape(-1, 4).tolist():
            sides = []
            for _ in range(2 if self._kind == "lu" and p != q else 1):
                sides.append(values[at : at + m * n].reshape(n, m).T)
                at += m * n
            held = int(matrix.pairs(np.array([p - self._first]), np.array([q - self._first]))[0])
            if not matrix.touched[held]:
                self._given[p, q] = sides[0], sides[1] if len(sides) == 2 else None

    @full_precision()
    def merge(self, level: int, parents: Ints, first: int, last: int) -> None:
        """Join children into `parents`, of which this part owns first to last - 1."""
        below, arity = self._current(), self._tree.arity
        children = self._tree.first_child[parents.astype(np.int64)].astype(np.int64)[:, None] + np.arange(
            arity
        )
        lists = self._lists(children.reshape(-1))
        sizes = np.array([len(part) for part in lists], np.int64).reshape(-1, arity)
        first_below, n_below = self._first, self._n_boxes
        given, touched = self._given, below.touched[:-1]
        self._begin(level - 1)
        pairs = (
            np.concatenate(
                [
                    np.stack([below.first[touched], below.second[touched]]),
                    np.array([*given, *((q, p) for p, q in given)], np.int64).reshape(-1, 2).T - first_below,
                ],
                axis=1,
            )
            // arity
        )
        self._told = {
            int(parent): np.concatenate(lists[i * arity : (i + 1) * arity])
            for i, parent in enumerate(parents)
        }
        self.own(first, last)
        shape = (self._n_boxes, self._n_boxes)
        matrix = self._level_matrix(csr_array((np.ones(pairs.shape[1], np.int64), pairs), shape=shape))
        offset = np.zeros(n_below, np.int64)  # place of each child's unknowns among those of the level
        inside = np.cumsum(sizes, axis=1) - sizes
        offset[children - first_below] = matrix.start[parents - self._first][:, None] + inside
        self._take_over(matrix, below, np.arange(n_below) // arity, offset, first_below)

    def _take_over(
        self, matrix: LevelMatrix, below: LevelMatrix, parent: Integers, offset: Integers, first_below: int
    ) -> None:
        """Fill a matrix with the blocks of the boxes below that are no longer the kernel's, kept and given ones."""
        matrix.take_over(below, parent, offset)
        self._matrix = matrix
        self._note(below.values.numel() * below.values.element_size())
        for (p, q), (M, R) in self._given.items():
            one, other = p - first_below, q - first_below
            ways = [(one, other, M)]
            if R is not None:
                ways.append((other, one, R.T))
            elif parent[one] == parent[other] and one != other:
                ways.append((other, one, M.T))
            for i, j, block in ways:
                matrix.put(int(parent[i]), int(parent[j]), int(offset[i]), int(offset[j]), block)
        self._told, self._given = {}, {}

    @full_precision()
    def finish(self, first: int, last: int) -> tuple[list[StepArrays], tuple[int, float] | None]:
        """Factorize the unknowns left in the boxes first to last - 1 densely."""
        below, lists = self._current(), self._lists(np.arange(first, last))
        sizes = np.array([len(part) for part in lists], np.int64)
        places = np.concatenate([*lists, [self._n_points]]).astype(np.int64)
        matrix = LevelMatrix(
            below.entries, below.diagonal, to_device(places, self._device), np.array([0, sizes.sum()]),
            csr_array(np.ones((1, 1), np.int64)), symmetric=below.symmetric, dtype=below.dtype,
        )  # fmt: skip
        offset = np.zeros(self._n_boxes, np.int64)
        offset[first - self._first : last - self._first] = np.cumsum(sizes) - sizes
        self._take_over(matrix, below, np.zeros(self._n_boxes, np.int64), offset, self._first)
        n, nothing = int(sizes.sum()), np.zeros((1, 0), np.int64)
        if n == 0:
            return [], None
        box, none = np.zeros(1, np.int64), np.zeros(1, np.int64)
        unknowns, empty = matrix.unknowns(box[:, None]), matrix.unknowns(nothing)
        basis = BoxBases(empty, unknowns, matrix.values.new_zeros(1, 0, n), none)
        try:
            self._eliminate_bucket(
                box, nothing, np.zeros(1, np.int32), basis, Shapes(np.array([n]), none, none)
            )
        except BrokenDown as broken:
            return [], (broken.place, broken.pivot)
        self._recorded.table += np.array([last - first, n, 0], np.int32)
        return self._hand_out(), None
