"""Solves and products with a root, by parts: vectors go through the stages of a factorization.

Every part keeps the vector entries of its own unknowns, of others' unknowns that its steps touch (its halo), and of
unknowns that were handed to it. The lists of what is sent to whom are made once. On the way up, the sums in a halo are
sent to the owners after the phase; on the way down, the owners send values before the phase.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import _native
from pipeline.hmatrix.parts.stages import Eliminated, Ids, Moved, Stage, Steps
from pipeline.hmatrix.parts.team import Team
from pipeline.hmatrix.places import distinct
from pipeline.hmatrix.threads import one_blas_thread

# As native/solve.hpp numbers them.
FORWARD, BACKWARD, FORWARD_TRANSPOSED, BACKWARD_TRANSPOSED, MULTIPLY_ROOT, MULTIPLY_ROOT_TRANSPOSED = range(6)
PartPairs = dict[tuple[int, int], Ids]  # places in a part's vectors, by (this part, other part)
PartVectors = dict[int, NDArray[Any]]  # of each part, shape (unknowns, m)


@dataclass(frozen=True, eq=False)
class StepsView:
    """Steps of a part in the numbering of its vectors: counts, index, values and pivots of native/eliminate.hpp."""

    stored: np.dtype[Any]
    counts: NDArray[np.int32]
    index: NDArray[np.int32]
    values: NDArray[Any]
    pivots: NDArray[np.int32]

    @cached_property
    def native(self) -> Any:
        """The view that native routines take."""
        view = getattr(_native, f"Level_{self.stored.name}")
        return view(self.counts, self.index, self.values, self.pivots)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the native view, which is made anew where it is wanted."""
        return {name: value for name, value in vars(self).items() if name != "native"}


@dataclass(frozen=True, eq=False)
class LocalStage:
    """A stage in the numbering of the parts' own vectors.

    Attributes:
        level: Number of the level.
        steps: Each part's steps.
        halo: Places of the halo in the vectors of those who touch it, by (part, owner).
        asked: The same places in the owners' vectors, by (owner, part).
        left, came: Places of unknowns that are handed over before the stage: by (old, new owner), by (new, old).
    """

    level: int
    steps: dict[int, list[StepsView]]
    halo: PartPairs
    asked: PartPairs
    left: PartPairs
    came: PartPairs


class Substitution:
    """A factorization by parts, ready for vectors.

    Attributes:
        determinant: Phase and logarithm of the absolute value, over all parts.
        table, levels: A row per level, leaves first, and the number of each level; see `Eliminated`.
        peak_bytes: Largest number of bytes of blocks and steps that each part of this process held.
        tally: Counts of operations and messages so far, including those of the factorization.
    """

    def __init__(self, eliminated: Eliminated, team: Team, kind: int, stored: np.dtype[Any]) -> None:
        """Number each part's unknowns and make the lists; collective."""
        self._team, self._kind, self.tally = team, kind, team.tally
        self._stored = stored
        self._computed = np.dtype(np.complex128 if stored.kind == "c" else np.float64)
        bounds = eliminated.stages[0].plan.places
        self._bounds = {part: (int(bounds[part]), int(bounds[part + 1])) for part in team.own}
        self._stages = self._localize(eliminated.stages)
        self.determinant, self.peak_bytes = eliminated.determinant, eliminated.peak_bytes
        self.table, self.levels = eliminated.table, eliminated.levels

    def __getstate__(self) -> dict[str, Any]:
        """Leave the threads behind: a copy has a team of its own.

        Raises:
            TypeError: If the parts are spread over processes, which cannot be copied together.
        """
        if self._team.communicator.size > 1:
            raise TypeError(
                "a factorization whose parts are spread over processes cannot be pickled or copied"
            )
        return vars(self) | {"_team": (self._team.n_parts, self._team.n_threads, self._team.shares)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        n_parts, n_threads, shares = state["_team"]
        team = Team(n_parts, n_threads, shares=shares, tally=state["tally"])
        vars(self).update(state | {"_team": team})

    @property
    def n_parts(self) -> int:
        return self._team.n_parts

    @property
    def n_bytes(self) -> int:
        """Bytes of this process's steps."""
        return sum(row["bytes"] for row in self.table)

    @property
    def own_range(self) -> tuple[int, int]:
        """First and last + 1 of the places in tree order whose entries this process takes and gives."""
        ranges = list(self._bounds.values())
        return (ranges[0][0], ranges[-1][1]) if ranges else (0, 0)

    def solve(self, x: NDArray[Any], m: int) -> NDArray[Any]:
        """Return A^-1 x for this process's entries of x, flat (entries, m) in tree order; collective."""
        return self._there_and_back(x, m, FORWARD, BACKWARD)

    def solve_transposed(self, x: NDArray[Any], m: int) -> NDArray[Any]:
        """Return A^-T x, like `solve`."""
        return self._there_and_back(x, m, FORWARD_TRANSPOSED, BACKWARD_TRANSPOSED)

    def _there_and_back(self, x: NDArray[Any], m: int, up: int, down: int) -> NDArray[Any]:
        with one_blas_thread(), self._team.at_work():
            vectors = self._scatter(x, m)
            for stage in self._stages:
                self._rise(stage, vectors)
                self._sweep(stage, up, vectors)
                self._add(stage, vectors)
            for stage in reversed(self._stages):
                self._ask(stage, vectors)
                self._sweep(stage, down, vectors)
                self._clear(stage, vectors)
                self._sink(stage, vectors)
            return self._gather(vectors, m)

    def multiply_root(self, x: NDArray[Any], m: int) -> NDArray[Any]:
        """Return L x with A = L L^T, like `solve`."""
        with one_blas_thread(), self._team.at_work():
            vectors = self._scatter(x, m)
            for stage in self._stages:
                self._rise(stage, vectors)
            for stage in reversed(self._stages):
                self._sweep(stage, MULTIPLY_ROOT, vectors)
                self._add(stage, vectors)
                self._sink(stage, vectors)
            return self._gather(vectors, m)

    def multiply_root_transposed(self, x: NDArray[Any], m: int) -> NDArray[Any]:
        """Return L^T x with A = L L^T, like `solve`."""
        with one_blas_thread(), self._team.at_work():
            vectors = self._scatter(x, m)
            for stage in self._stages:
                self._rise(stage, vectors)
                self._ask(stage, vectors)
                self._sweep(stage, MULTIPLY_ROOT_TRANSPOSED, vectors)
                self._clear(stage, vectors)
            for stage in reversed(self._stages):
                self._sink(stage, vectors)
            return self._gather(vectors, m)

    def level_rows(self) -> list[dict[str, Any]]:
        """Return a row per level, leaves first, of what this process's parts hold, have computed and have sent so far.

        Messages and waiting include those of solves; operations are those of the factorization only.
        """
        flops: defaultdict[int, float] = defaultdict(float)
        for (_, level, _), by_part in self.tally.flops.items():
            flops[level] += sum(by_part.values())
        rows: list[dict[str, Any]] = []
        nothing = {"messages": 0, "sent_bytes": 0, "waiting_seconds": 0.0}
        for row, level in zip(self.table, self.levels, strict=True):
            # The dense end stands at a level of its own, unless boxes of the top were eliminated before it.
            again = level in self.levels[: len(rows)]
            rows.append(
                {
                    "level": level,
                    **{name: row[name] for name in ("boxes", "unknowns", "skeletons", "seconds")},
                    "bytes": row["bytes"],
                    "flops": 0 if again else int(flops[level]),
                    **(nothing if again else self._team.sent_on(level)),
                }
            )
        return rows

    def __repr__(self) -> str:
        return f"Substitution({self.n_parts} parts, {len(self._stages)} stages, {self.n_bytes / 1e6:.1f} MB)"

    def _scatter(self, x: NDArray[Any], m: int) -> PartVectors:
        first, _ = self.own_range
        rows = np.asarray(x, self._computed).reshape(-1, m)
        vectors = {}
        for part, (low, high) in self._bounds.items():
            vectors[part] = np.zeros((self._sizes[part], m), self._computed)
            vectors[part][: high - low] = rows[low - first : high - first]
        return vectors

    def _gather(self, vectors: PartVectors, m: int) -> NDArray[Any]:
        parts = [vectors[part][: high - low] for part, (low, high) in self._bounds.items()]
        return np.concatenate([*parts, np.zeros((0, m), self._computed)]).reshape(-1)

    def _sweep(self, stage: LocalStage, way: int, vectors: PartVectors) -> None:
        def run(part: int, _: bool) -> None:
            x = vectors[part]
            views = [view.native for view in stage.steps[part]]
            _native.sweep(views, self._kind, way, x.reshape(-1), x.shape[1])

        self._team.each([part for part, steps in stage.steps.items() if steps], run)

    def _send(
        self,
        stage: LocalStage,
        vectors: PartVectors,
        source: PartPairs,
        destination: PartPairs,
        *,
        add: bool,
        clear: bool,
    ) -> None:
        sent = {pair: (vectors[pair[0]][places],) for pair, places in source.items()}
        if clear:
            for (part, _), places in source.items():
                vectors[part][places] = 0
        for part, messages in self._team.exchange("vectors", stage.level, sent).items():
            for other, (values,) in messages:
                places = destination[part, other]
                rows = values.reshape(len(places), -1)
                if add:
                    vectors[part][places] += rows
                else:
                    vectors[part][places] = rows

    def _rise(self, stage: LocalStage, vectors: PartVectors) -> None:
        """Hand unknowns to their new owners, who may have added to them already."""
        self._send(stage, vectors, stage.left, stage.came, add=True, clear=True)

    def _sink(self, stage: LocalStage, vectors: PartVectors) -> None:
        """Give handed-over unknowns back."""
        self._send(stage, vectors, stage.came, stage.left, add=False, clear=True)

    def _add(self, stage: LocalStage, vectors: PartVectors) -> None:
        """Send what was added to the halo to its owners."""
        self._send(stage, vectors, stage.halo, stage.asked, add=True, clear=True)

    def _ask(self, stage: LocalStage, vectors: PartVectors) -> None:
        """Fetch the halo's values from its owners."""
        self._send(stage, vectors, stage.asked, stage.halo, add=False, clear=False)

    def _clear(self, stage: LocalStage, vectors: PartVectors) -> None:
        for (part, _), places in stage.halo.items():
            vectors[part][places] = 0

    def _localize(self, stages: list[Stage]) -> list[LocalStage]:
        team = self._team
        # Unknowns that arrive with a move, and those that others ask for, are known to the sender alone.
        arrived = [self._delivered("moves", stage, stage.moved) for stage in stages]
        halos = [self._halo(stage) for stage in stages]
        asked = [self._delivered("halos", stage, halo) for stage, halo in zip(stages, halos, strict=True)]
        numbering = {}
        for part, (low, high) in self._bounds.items():
            others = [
                places
                for table in (*halos, *arrived)
                for (number, _), places in table.items()
                if number == part
            ]
            extra = distinct(np.concatenate([np.zeros(0, np.int32), *others]))
            extra = extra[(extra < low) | (extra >= high)]
            numbering[part] = _Numbering(low, high, extra)
        self._sizes = {part: found.size for part, found in numbering.items()}

        def local(table: Moved) -> PartPairs:
            return {pair: numbering[pair[0]](places) for pair, places in table.items()}

        def views(part: int, pieces: list[Steps]) -> list[StepsView]:
            return [
                StepsView(
                    self._stored, piece.counts, numbering[part](piece.index), piece.values, piece.pivots
                )
                for piece in pieces
            ]

        result = []
        for stage, halo, ask, came in zip(stages, halos, asked, arrived, strict=True):
            steps = team.each(stage.steps, lambda part, _, stage=stage: views(part, stage.steps[part]))  # type: ignore[misc]
            result.append(
                LocalStage(stage.plan.level, steps, local(halo), local(ask), local(stage.moved), local(came))
            )
        return result

    def _delivered(self, what: str, stage: Stage, table: Moved) -> Moved:
        """Return what other parts' tables tell this process's parts, by (this part, the other)."""
        received = self._team.exchange(what, stage.plan.level, {pair: (ids,) for pair, ids in table.items()})
        return {(part, source): ids for part, messages in received.items() for source, (ids,) in messages}

    def _halo(self, stage: Stage) -> Moved:
        """Return the unknowns of others that a part's steps touch, by (part, owner)."""
        if stage.dense or stage.plan.n_active == 1:
            return {}
        plan = stage.plan
        edges = plan.places
        result: Moved = {}
        for part, pieces in stage.steps.items():
            touched = [np.zeros(0, np.int32)]
            for piece in pieces:
                counts = piece.counts.reshape(-1, 3)
                kinds = np.tile([False, True], len(counts))
                others = (piece.index < edges[part]) | (piece.index >= edges[part + 1])
                touched.append(piece.index[others & np.repeat(kinds, counts[:, [0, 2]].reshape(-1))])
            ids = distinct(np.concatenate(touched))
            owner = np.searchsorted(edges[:-1], ids, side="right") - 1
            for other in np.unique(owner).tolist():
                result[part, other] = ids[owner == other]
        return result


class _Numbering:
    """Where a part keeps an unknown: its own range first, then others in order."""

    def __init__(self, low: int, high: int, extra: Ids) -> None:
        self._low, self._high, self._extra = low, high, extra

    @property
    def size(self) -> int:
        return self._high - self._low + len(self._extra)

    def __call__(self, places: Ids) -> Ids:
        if len(self._extra) == 0:
            return places if self._low == 0 else (places - self._low).astype(np.int32)
        own = (places >= self._low) & (places < self._high)
        found = np.searchsorted(self._extra, places[~own])
        result = places - self._low
        result[~own] = self._high - self._low + found
        return result.astype(np.int32, copy=False)
