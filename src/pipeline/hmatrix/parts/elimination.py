"""Strong recursive skeletonization by parts: the static plan of `partition.py`, carried out.

Level by level from the leaves, phase by phase: every part eliminates its boxes of the phase (native/eliminate.cpp), and
sends one record per box to the parts whose blocks or ghosts it concerns, which apply it. At the level's end boxes go to
the owners of their parents, children's unknowns to those whose ghosts the parents are, and blocks are merged. What is
left in the end is gathered by part 0 and factorized densely. One part over everything is the serial algorithm.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.inputs import Progress
from pipeline.hmatrix.partition import LevelPartition, partition_level
from pipeline.hmatrix.parts.team import Message, Team
from pipeline.hmatrix.skeleton import Sampling
from pipeline.hmatrix.threads import one_blas_thread

Failure = tuple[int, int, float]  # level, place in tree order, pivot
Ids = NDArray[np.int32]
Moved = dict[tuple[int, int], Ids]
NO_PHASE = -1


@dataclass(frozen=True, eq=False)
class Problem:
    """What is factorized.

    Attributes:
        matrix: Entries, without the diagonal.
        tree: Of the points.
        near, far: Boxes near to and far from each box.
        diagonal: Added to the diagonal, in tree order, float64 or complex128.
        kind: Number of the kind in native/eliminate.hpp.
        working, stored: Types of arithmetic and of steps.
        sampling: How far fields are compressed.
        first_far_level: The uppermost level with far pairs; above it everything is dense.
        dense_end: Unknowns that are left to one dense factorization.
    """

    matrix: "_native.KernelMatrix"
    tree: ClusterTree
    near: Lists
    far: Lists
    diagonal: NDArray[Any]
    kind: int
    working: np.dtype[Any]
    stored: np.dtype[Any]
    sampling: Sampling
    first_far_level: int
    dense_end: int


@dataclass(frozen=True, eq=False)
class Steps:
    """Eliminations of one part in one phase, or a piece of these, in the layout of native/eliminate.hpp."""

    counts: NDArray[np.int32]
    index: NDArray[np.int32]
    values: NDArray[Any]
    pivots: NDArray[np.int32]
    determinant: NDArray[np.float64]  # real and imaginary part of its phase, logarithm of its size
    table: NDArray[np.int32]  # boxes, unknowns, skeletons

    @property
    def n_bytes(self) -> int:
        return self.counts.nbytes + self.index.nbytes + self.values.nbytes + self.pivots.nbytes


@dataclass(frozen=True, eq=False)
class Stage:
    """One phase of a level.

    Attributes:
        plan: The level.
        phase: Number of the phase; `NO_PHASE` where unknowns are moved only.
        steps: Of the parts of this process.
        moved: Unknowns, in tree order, that go from one part to another before this phase: at the first of a level.
        dense: The stage is the dense end.
    """

    plan: LevelPartition
    phase: int
    steps: dict[int, list[Steps]]
    moved: Moved
    dense: bool = False


@dataclass(frozen=True, eq=False)
class Eliminated:
    """A factorization by parts, as this process holds it.

    Attributes:
        stages: In order.
        determinant: Phase, and logarithm of the size; of all parts.
        table: A row per level, leaves first: boxes, unknowns, skeletons, seconds, bytes; of this process's parts.
        levels: Number of the level of each of these rows; the last row is that of the dense end.
        peak_bytes: Most bytes of blocks and steps that each part of this process held.
    """

    stages: list[Stage]
    determinant: tuple[complex, float]
    table: list[dict[str, Any]]
    levels: list[int]
    peak_bytes: dict[int, int]

    @property
    def n_bytes(self) -> int:
        return sum(row["bytes"] for row in self.table)


def eliminate(
    problem: Problem, team: Team, progress: Progress | None = None
) -> tuple[Eliminated | None, Failure | None]:
    """Factorize by parts; collective.

    Returns:
        The factorization and None, or None and the failure of the first part that met one: the same on all processes.
    """
    with one_blas_thread(), team.at_work(alone=problem.matrix.calls_python):
        return _Run(problem, team, progress).run()


class _Broken(Exception):
    """A pivot has failed somewhere; every process raises it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


class _Run:
    """One factorization while it is being made."""

    def __init__(self, problem: Problem, team: Team, progress: Progress | None) -> None:
        self.problem, self.team, self.tree, self.progress = problem, team, problem.tree, progress
        self.watch = _native.Watch(progress, self.tree.n_boxes)
        part = getattr(_native, f"Part_{problem.working.name}_{problem.stored.name}")
        near, far, sampling = problem.near, problem.far, problem.sampling
        arguments = problem.matrix, self.tree.native, near.start, near.boxes, far.start, far.boxes
        options = problem.diagonal, problem.kind, sampling.budget, sampling.rows
        self.parts = {number: part(*arguments, *options) for number in team.own}
        self.stages: list[Stage] = []
        self.seconds: list[float] = []

    def run(self) -> tuple[Eliminated | None, Failure | None]:
        try:
            self._eliminate_all()
        except _Broken as broken:
            return None, broken.failure
        if self.progress is not None:
            self.progress(self.tree.n_boxes, self.tree.n_boxes)
        return self._result(), None

    def _plan(self, level: int) -> LevelPartition:
        return partition_level(self.tree, self.problem.near, level, self.team.n_parts, self.team.shares)

    def _eliminate_all(self) -> None:
        level = self.tree.n_levels - 1
        plan = self._plan(level)
        for number, part in self.parts.items():
            part.own(*plan.range_of(number))
            boxes = plan.first + plan.known_to(number)
            start = np.concatenate([[0], np.cumsum(self.tree.stop[boxes] - self.tree.start[boxes])])
            part.set_points(boxes, start, _ranges(self.tree.start[boxes], self.tree.stop[boxes]))
        moved: Moved = {}
        while level >= self.problem.first_far_level and self._left(plan) > self.problem.dense_end:
            begun = time.perf_counter()
            for phase in range(plan.n_phases):
                self._phase(plan, phase, moved if phase == 0 else {})
            moved = {}
            if level == 0:
                break
            above = self._plan(level - 1)
            moved = self._climb(plan, above)
            self.seconds.append(time.perf_counter() - begun)
            plan, level = above, level - 1
        begun = time.perf_counter()
        self._finish(plan, moved)
        self.seconds.append(time.perf_counter() - begun)

    def _left(self, plan: LevelPartition) -> float:
        """Return how many unknowns there are, over all parts."""
        counts = {
            number: np.array([float(part.unknowns(*plan.range_of(number)))])
            for number, part in self.parts.items()
        }
        return float(self.team.gather(counts, 1).sum())

    def _counted(
        self, what: str, plan: LevelPartition, phase: int, parts: list[int], work: Callable[[int, bool], Any]
    ) -> dict[int, Any]:
        """Run one superstep, counting operations."""

        def counted(number: int, watching: bool) -> tuple[Any, float]:
            before = self.parts[number].flops
            result = work(number, watching)
            return result, self.parts[number].flops - before

        with self.team.together(plan.level):
            results = self.team.each(parts, counted, watch=self.watch)
        tally = self.team.tally.flops[what, plan.level, phase]
        for number, (_, flops) in results.items():
            tally[number] += flops
        return {number: result for number, (result, _) in results.items()}

    def _agree(self, level: int, failures: dict[int, tuple[int, float] | None]) -> None:
        """Raise on all processes if the pivot of any part has failed."""
        rows = {
            number: np.array([0.0, 0.0, 0.0] if failure is None else [1.0, *failure])
            for number, failure in failures.items()
        }
        table = self.team.gather(rows, 3)
        for part, (failed, place, pivot) in enumerate(table):
            if failed:
                self.team.failed = int(self.team.place[part])
                raise _Broken((level, int(place), float(pivot)))

    def _phase(self, plan: LevelPartition, phase: int, moved: Moved) -> None:
        in_phase = {number: plan.boxes_of(number, phase) for number in self.parts}
        done = self._counted(
            "eliminate", plan, phase, list(self.parts),
            lambda number, watching: self.parts[number].eliminate(
                plan.first + in_phase[number], plan.told[in_phase[number]], self.watch, watching
            ),
        )  # fmt: skip
        self._agree(plan.level, {number: failure for number, (_, _, failure) in done.items()})
        steps = {number: [Steps(*piece) for piece in pieces] for number, (pieces, _, _) in done.items()}
        self.stages.append(Stage(plan, phase, steps, moved))
        if plan.n_active == 1:
            return
        sent: dict[tuple[int, int], Message] = {}
        for number, (_, records, _) in done.items():
            for listener, (chosen, with_update) in plan.listeners(in_phase[number]).items():
                sent[number, listener] = _selected(records, chosen, with_update)
        del done
        received = self.team.exchange("records", plan.level, sent)

        def apply(number: int, _: bool) -> None:
            for _sender, (ints, values) in received[number]:
                self.parts[number].apply(ints, values)

        self._counted("apply", plan, phase, [number for number in self.parts if received.get(number)], apply)

    def _climb(self, plan: LevelPartition, above: LevelPartition) -> Moved:
        """Hand boxes to the owners of their parents, tell of ghosts' unknowns, and merge."""
        moved = self._hand_over(plan, np.repeat(above.owner, self.tree.arity), above)

        def merge(number: int, _: bool) -> None:
            parents = (above.first + above.known_to(number)).astype(np.int32)
            self.parts[number].merge(plan.level, parents, *above.range_of(number))

        self._counted("merge", plan, 0, list(self.parts), merge)
        return moved

    def _hand_over(
        self, plan: LevelPartition, heir: NDArray[np.int32], above: LevelPartition | None
    ) -> Moved:
        """Send blocks and unknowns of boxes to their new owners, and unknowns to those who will have them as ghosts.

        Args:
            plan: The level.
            heir: Shape (boxes,), the new owner of each box.
            above: The level above; None at the dense end, where there are no ghosts.
        """
        arity = self.tree.arity
        own = {number: np.arange(*plan.cuts[number : number + 2], dtype=np.int32) for number in self.parts}
        told: dict[tuple[int, int], Message] = {}
        handed: dict[tuple[int, int], Message] = {}
        moved: Moved = {}
        wanted = [
            above.known_to(part) if above is not None else np.zeros(0, np.int32)
            for part in range(plan.n_parts)
        ]
        for number, boxes in own.items():
            if len(boxes) == 0:
                continue
            for other in range(plan.n_parts):
                if other == number:
                    continue
                inherited = np.asarray(heir[boxes] == other)
                known = inherited | np.isin(boxes // arity, wanted[other])
                if not known.any():
                    continue
                chosen = plan.first + boxes[known]
                start, points = self.parts[number].points(chosen)
                told[number, other] = chosen.astype(np.int32), start, points
                if inherited.any():
                    leaving = boxes[inherited]
                    heritage = np.flatnonzero(heir == other)
                    first, last = plan.first + int(leaving[0]), plan.first + int(leaving[-1]) + 1
                    low, high = plan.first + int(heritage[0]), plan.first + int(heritage[-1]) + 1
                    handed[number, other] = self.parts[number].blocks(first, last, low, high)
                    moved[number, other] = self.parts[number].points(np.arange(first, last, dtype=np.int32))[
                        1
                    ]
        for destination, messages in self.team.exchange("ghosts", plan.level, told).items():
            for _, message in messages:
                self.parts[destination].set_points(*message)
        for destination, messages in self.team.exchange("blocks", plan.level, handed).items():
            for _, message in messages:
                self.parts[destination].add_blocks(*message)
        return moved

    def _finish(self, plan: LevelPartition, moved: Moved) -> None:
        """Gather what is left on part 0, and factorize it densely."""
        heir = np.zeros(plan.n_boxes, np.int32)
        gathered = self._hand_over(plan, heir, None)
        if self.team.n_parts > 1:  # what was moved when the level was reached, before what is gathered now
            self.stages.append(Stage(plan, NO_PHASE, {}, moved))
        first = plan.first
        done = self._counted(
            "finish", plan, 0, [number for number in self.parts if number == 0],
            lambda number, _: self.parts[number].finish(first, first + plan.n_boxes),
        )  # fmt: skip
        self._agree(plan.level, {number: failure for number, (_, failure) in done.items()})
        steps = {number: [Steps(*piece) for piece in pieces] for number, (pieces, _) in done.items()}
        self.stages.append(Stage(plan, 0, steps, gathered, dense=True))

    def _result(self) -> Eliminated:
        rows = {}
        for number in self.parts:
            pieces = [piece for stage in self.stages for piece in stage.steps.get(number, [])]
            phase = complex(np.prod([complex(*piece.determinant[:2]) for piece in pieces]))
            rows[number] = np.array(
                [phase.real, phase.imag, sum(float(piece.determinant[2]) for piece in pieces)]
            )
        found = self.team.gather(rows, 3)
        phase = complex(np.prod([complex(*row[:2]) for row in found]))
        peaks = {number: int(part.peak_bytes) for number, part in self.parts.items()}
        return Eliminated(self.stages, (phase, float(sum(found[:, 2]))), *self._table(), peaks)

    def _table(self) -> tuple[list[dict[str, Any]], list[int]]:
        table: list[dict[str, Any]] = []
        levels: list[int] = []
        last = None
        for stage in self.stages:
            key = stage.plan.level, stage.dense
            if key != last and stage.phase != NO_PHASE:
                table.append({"boxes": 0, "unknowns": 0, "skeletons": 0, "seconds": 0.0, "bytes": 0})
                levels.append(stage.plan.level)
                last = key
            for pieces in stage.steps.values():
                for piece in pieces:
                    for name, value in zip(("boxes", "unknowns", "skeletons"), piece.table, strict=True):
                        table[-1][name] += int(value)
                    table[-1]["bytes"] += piece.n_bytes
        for row, seconds in zip(table, self.seconds, strict=True):
            row["seconds"] = seconds
        return table, levels


def _selected(
    records: tuple[NDArray[np.int64], Ids, NDArray[np.int64], NDArray[Any]],
    chosen: Ids,
    with_update: NDArray[np.bool_],
) -> tuple[Ids, NDArray[Any]]:
    """Return the records of chosen boxes as one message, updates only for those who need them."""
    int_start, ints, value_start, values = records
    heads, contents = [np.zeros(0, np.int32)], [np.zeros(0, values.dtype)]
    for i, needed in zip(chosen.tolist(), with_update.tolist(), strict=True):
        head = ints[int_start[i] : int_start[i + 1]]
        if len(head) == 0:  # nothing was eliminated
            continue
        if needed:
            contents.append(values[value_start[i] : value_start[i + 1]])
        elif head[4]:
            head = head.copy()
            head[4] = 0
        heads.append(head)
    return np.concatenate(heads), np.concatenate(contents)


def _ranges(start: Ids, stop: Ids) -> Ids:
    """Return start[0], ..., stop[0] - 1, start[1], ..., one range after the other."""
    sizes = (stop - start).astype(np.int64)
    ends = np.cumsum(sizes)
    shift = np.repeat(start - (ends - sizes), sizes)
    return np.asarray(np.arange(int(ends[-1]) if len(ends) else 0) + shift, np.int32)
