"""Strong recursive skeletonization by parts: the static plan of `partition.py`, carried out.

Levels are taken from the leaves up, phase by phase: every part eliminates its boxes of the phase (native/eliminate.cpp)
and sends one record per box to the parts whose blocks or ghosts the box concerns. These parts apply the record when
their next phase begins, without waiting for each other in between. At the level's end, boxes go to the owners of their
parents, children's unknowns go to the parts that have the parents as ghosts, and blocks are merged. In the end, the
fastest part gathers the remaining unknowns and factorizes them densely. With a single part, this is the serial
algorithm.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import _native
from pipeline.hmatrix.batched.kernel import UndividedTree
from pipeline.hmatrix.batched.part import BatchedPart
from pipeline.hmatrix.inputs import Progress
from pipeline.hmatrix.partition import LevelPartition, partition_level
from pipeline.hmatrix.parts.handing_over import hand_over
from pipeline.hmatrix.parts.renumbered import RenumberedPart
from pipeline.hmatrix.parts.stages import (
    NO_PHASE,
    Eliminated,
    Ids,
    Moved,
    Problem,
    Stage,
    Steps,
    last_dense_level,
    level_table,
)
from pipeline.hmatrix.parts.team import Message, Team
from pipeline.hmatrix.swap import chained
from pipeline.hmatrix.threads import one_blas_thread
from pipeline.runtime.communicator import on_level

Failure = tuple[int, int, float]  # level, place in tree order, pivot
logger = logging.getLogger("pipeline.hmatrix")

_LONG = 10.0  # seconds after which every level is a line of the log
_AHEAD = 2  # samples of a box, each twice as large, whose points are fetched in advance: few boxes need more
_FETCHES = 12  # samples at which the factorization gives up
_CHECK = 0.4  # rows of a check as a share of the sample's: as in native/adaptive.hpp
_NO_POINTS = np.zeros(0, np.int64)


def eliminate(
    problem: Problem,
    team: Team,
    progress: Progress | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Eliminated | None, Failure | None]:
    """Factorize by parts; collective. Levels are timed by `clock`, in seconds.

    Returns:
        The factorization and None, or None and the failure of the first part that met one: the same on all processes.
    """
    with one_blas_thread(), team.at_work(alone=problem.matrix.calls_python):
        return _Run(problem, team, progress, clock).run()


class _Broken(Exception):
    """A pivot has failed somewhere; every process raises it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


class _Run:
    """A factorization in progress."""

    def __init__(
        self, problem: Problem, team: Team, progress: Progress | None, clock: Callable[[], float]
    ) -> None:
        self.problem, self.team, self.tree, self.progress = problem, team, problem.tree, progress
        self.clock = clock
        whole = problem.plan and problem.plan.levels
        self.sizes = [level.n_boxes for level in whole] if whole else np.diff(self.tree.level_start).tolist()
        self.watch = _native.Watch(progress, sum(self.sizes))
        self.batched = set(team.devices)
        parts = {number: self._part(team.devices.get(number)) for number in team.own}
        plan = problem.plan
        self.parts = (
            parts if plan is None else {number: RenumberedPart(part, plan) for number, part in parts.items()}
        )
        self.stages: list[Stage] = []
        self.seconds: list[float] = []
        self.unread: dict[
            int, list[tuple[int, Message]]
        ] = {}  # records that have arrived and are not applied yet

    def _part(self, device: torch.device | None) -> Any:
        """Return a part that works natively, or in batches on a device."""
        problem, near, far, sampling = (
            self.problem,
            self.problem.near,
            self.problem.far,
            self.problem.sampling,
        )
        if device is None:
            native = getattr(_native, f"Part_{problem.working.name}_{problem.stored.name}")
            return native(
                problem.matrix, self.tree.native, near.start, near.boxes, far.start, far.boxes,
                problem.diagonal, problem.kind, sampling.budget, sampling.rows, problem.fetch is not None,
            )  # fmt: skip
        if problem.kernel is None:
            raise ValueError("only a kernel's entries can be eliminated in batches")
        part = BatchedPart(
            problem.kernel, self.tree, near, far, problem.kind, problem.working, problem.stored, sampling, device
        )  # fmt: skip
        if problem.fetch is None:
            part.keep(UndividedTree(self.tree), problem.diagonal)
        return part

    def run(self) -> tuple[Eliminated | None, Failure | None]:
        try:
            self._eliminate_all()
        except _Broken as broken:
            return None, broken.failure
        with self.team.together(0):
            if self.progress is not None:
                self.progress(sum(self.sizes), sum(self.sizes))
        return self._result(), None

    def _plan(self, level: int) -> LevelPartition:
        if self.problem.plan is not None:
            return self.problem.plan.levels[level]
        return partition_level(self.tree, self.problem.near, level, self.team.n_parts, self.team.shares)

    def _eliminate_all(self) -> None:
        plan = self._start()
        moved: Moved = {}
        far, end = self.problem.first_far_level, self.problem.dense_end
        few = last_dense_level(np.array(self.sizes), far, end)
        while plan.level >= far and (plan.level > few or self._left(plan) > end):
            begun, level = self.clock(), plan.level
            with on_level(self.team.communicator, level):
                above, moved = self._eliminate_level(plan, moved)
            self.seconds.append(self.clock() - begun)
            if above is None:
                break
            plan = above
            if sum(self.seconds) > _LONG:
                logger.info(
                    "factorization: level %d of %d done after %.0f s",
                    level,
                    self.tree.n_levels - 1,
                    sum(self.seconds),
                )
        begun = self.clock()
        with on_level(self.team.communicator, plan.level):
            self._finish(plan, moved)
        self.seconds.append(self.clock() - begun)

    def _start(self) -> LevelPartition:
        """Tell the parts the points of their leaves, and return the plan of the leaves' level."""
        level = self.tree.n_levels - 1
        plan = self._plan(level)
        for number, part in self.parts.items():
            part.own(*plan.range_of(number))
            boxes = plan.first + plan.known_to(number)
            first, last = (side[self._here(boxes)] for side in (self.tree.start, self.tree.stop))
            part.set_points(
                boxes, np.concatenate([[0], np.cumsum(last - first)]), chained(first, last).astype(np.int32)
            )
        return plan

    def _eliminate_level(self, plan: LevelPartition, moved: Moved) -> tuple[LevelPartition | None, Moved]:
        """Eliminate the boxes of a level; return the plan of the next, None above the top, and what was handed over."""
        fetched = self._fetch_samples(plan, _AHEAD)
        for phase in range(plan.n_phases):
            fetched = self._phase(plan, phase, moved if phase == 0 else {}, fetched)
        self._counted("apply", plan, plan.n_phases, list(self.unread), self._read)
        if plan.level == 0:
            return None, {}
        above = self._plan(plan.level - 1)
        return above, self._climb(plan, above)

    def _here(self, boxes: NDArray[Any]) -> NDArray[Any]:
        """Return the numbers, in the tree that is known here, of boxes numbered as in the whole tree."""
        return boxes if self.problem.plan is None else self.problem.plan.here(boxes)

    def _left(self, plan: LevelPartition) -> float:
        """Return the number of unknowns that are left, over all parts."""
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

    def _read(self, number: int, _: bool) -> None:
        """Apply the records that have arrived for a part."""
        for _sender, (ints, values) in self.unread.pop(number, []):
            self.parts[number].apply(ints, values)

    def _fetch(self, boxes: dict[int, NDArray[Any]], samples: NDArray[np.int64]) -> None:
        """Fetch the points of the unknowns of boxes that parts know, and those of samples; collective."""
        if self.problem.fetch is None:
            return
        known = [self.parts[number].points(chosen.astype(np.int32))[1] for number, chosen in boxes.items()]
        matrix, diagonal, kept = self.problem.fetch(np.concatenate([samples, *known]).astype(np.int64))
        for number, part in self.parts.items():
            if number in self.batched:
                part.keep(kept, diagonal)
            else:
                part.set_entries(matrix, diagonal)
        self.matrix = matrix  # kept alive: the parts read it

    def _fetch_samples(self, plan: LevelPartition, n_samples: int) -> int:
        """Fetch points for some samples of each box, each twice the one before; collective. Return `n_samples`.

        Samples and checks are numbered as native/adaptive.hpp does.
        """
        if self.problem.fetch is not None:
            far, tree, rows = self.problem.far, self.tree.native, self.problem.sampling.rows
            own = [np.arange(*plan.range_of(number), dtype=np.int32) for number in self.parts]
            boxes = self._here(np.concatenate([np.zeros(0, np.int32), *own]))
            wanted = [
                _native.sampled_outside(
                    tree, tree, far.start, far.boxes, boxes, size, number, *self.problem.kept
                )
                for step in range(n_samples)
                for number, size in ((step, rows * 2**step), (step + 1, _CHECK * rows * 2**step))
            ]
            known = {number: plan.first + plan.known_to(number) for number in self.parts}
            self._fetch(known, np.concatenate(wanted))
        return n_samples

    def _agree(self, level: int, done: dict[int, tuple[int, tuple[int, float] | None]]) -> bool:
        """Tell whether boxes of any part are left; raise on all processes if the pivot of any part has failed."""
        rows = {
            number: np.array([left, *((0.0, 0.0, 0.0) if failure is None else (1.0, *failure))])
            for number, (left, failure) in done.items()
        }
        table = self.team.gather(rows, 4)
        for part, (_, failed, place, pivot) in enumerate(table):
            if failed:
                self.team.failed = int(self.team.place[part])
                raise _Broken((level, int(place), float(pivot)))
        return bool(table[:, 0].any())

    def _phase(self, plan: LevelPartition, phase: int, moved: Moved, fetched: int) -> int:
        """Apply the records of the previous phase and eliminate boxes; return how many samples per box are fetched."""
        in_phase = {number: plan.boxes_of(number, phase) for number in self.parts}
        for number, part in self.parts.items():
            if number in self.batched:
                in_phase[number] = part.arranged(plan.first + in_phase[number]) - plan.first
        left = in_phase

        def eliminate(number: int, watching: bool) -> Any:
            self._read(number, watching)
            boxes = left[number]
            return self.parts[number].eliminate(plan.first + boxes, plan.told(boxes), self.watch, watching)

        while True:
            done = self._counted("eliminate", plan, phase, list(self.parts), eliminate)
            left = {number: left[number][n_done:] for number, (n_done, _) in done.items()}
            if not self._agree(plan.level, {number: (len(left[number]), done[number][1]) for number in done}):
                break
            if fetched >= _FETCHES:
                raise ConvergenceError(
                    "no number of samples of the far field reaches the tolerance; ask for a larger one"
                )
            fetched = self._fetch_samples(plan, fetched + 1)
        taken = {number: part.take() for number, part in self.parts.items()}
        steps = {number: [Steps(*piece) for piece in pieces] for number, (pieces, _) in taken.items()}
        self.stages.append(Stage(plan, phase, steps, moved))
        if plan.n_active > 1:
            sent: dict[tuple[int, int], Message] = {}
            for number, (_, records) in taken.items():
                for listener, (chosen, with_update) in plan.listeners(in_phase[number]).items():
                    sent[number, listener] = _selected(records, chosen, with_update)
            del taken
            self.unread = self.team.exchange("records", plan.level, sent)
        return fetched

    def _climb(self, plan: LevelPartition, above: LevelPartition) -> Moved:
        """Hand boxes to the owners of their parents, send the unknowns of ghosts, and merge."""
        arity = self.tree.arity
        moved = hand_over(self.parts, self.team, arity, plan, above.cuts * arity, above)
        known = {number: above.known_to(number) for number in self.parts}
        children = {number: boxes[:, None] * arity + np.arange(arity) for number, boxes in known.items()}
        self._fetch(
            {number: plan.first + boxes.reshape(-1) for number, boxes in children.items()}, _NO_POINTS
        )

        def merge(number: int, _: bool) -> None:
            parents = (above.first + known[number]).astype(np.int32)
            self.parts[number].merge(plan.level, parents, *above.range_of(number))

        self._counted("merge", plan, 0, list(self.parts), merge)
        return moved

    def _finish(self, plan: LevelPartition, moved: Moved) -> None:
        """Gather the remaining unknowns on the fastest part, and factorize them densely."""
        fastest = int(np.argmax(self.team.speeds))
        if not self.stages:  # no level was eliminated, so no points have been fetched: there are few
            wanted = np.arange(plan.places[-1]) if fastest in self.batched else _NO_POINTS
            self._fetch({number: plan.first + plan.known_to(number) for number in self.parts}, wanted)
        heirs = np.where(np.arange(self.team.n_parts + 1) > fastest, plan.n_boxes, 0).astype(np.int32)
        gathered = hand_over(self.parts, self.team, self.tree.arity, plan, heirs, None)
        if self.team.n_parts > 1:  # the moves to this level come before what is gathered now
            self.stages.append(Stage(plan, NO_PHASE, {}, moved))
        first = plan.first
        self._fetch(
            {number: first + np.arange(plan.n_boxes) for number in self.parts if number == fastest},
            _NO_POINTS,
        )
        done = self._counted(
            "finish", plan, 0, [number for number in self.parts if number == fastest],
            lambda number, _: self.parts[number].finish(first, first + plan.n_boxes),
        )  # fmt: skip
        self._agree(plan.level, {number: (0, failure) for number, (_, failure) in done.items()})
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
        determinant = phase, float(sum(found[:, 2]))
        return Eliminated(self.stages, determinant, *level_table(self.stages, self.seconds), peaks)


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
