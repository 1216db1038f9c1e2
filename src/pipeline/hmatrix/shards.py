"""H2 matrices in several files: each shard has the rows of a range of boxes, and any number of processes can read them.

A shard holds points, bases of its boxes (the first shard also those of the boxes above the cut) and blocks; boxes are
numbered as in the whole tree. In a symmetric matrix, a block between boxes of one shard is kept once, and a block
between two shards in both.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ArtifactError
from pipeline.hmatrix import kernels
from pipeline.hmatrix.admissibility import ADMISSIBILITIES, Admissibility
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import Bounds, Frame
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.geometry import Geometry
from pipeline.hmatrix.shard_files import DESCRIPTION, Array, Shard, check_shard
from pipeline.hmatrix.skeleton import Basis, unknowns

_VERSION = 3
FlatBlocks = dict[tuple[int, int], Array]  # a block, flat and column-major, for each pair of boxes


@dataclass(frozen=True)
class Description:
    """What all shards share.

    Attributes:
        n_points: Points of the matrix.
        halvings, halvings_per_level: See `cluster.build_tree`.
        cut, cuts: Level whose boxes were dealt to shards, and where each shard's start; see `whole.Ownership`.
        checksums: CRC-32 of each shard's file.
        stored: Name of the type of blocks and bases.
        kernel, admissibility: Their own descriptions.
        mirrored, tolerance, norm, dtype, notes: See `H2Form`.
    """

    n_points: int
    halvings: int
    halvings_per_level: int
    cut: int
    cuts: list[int]
    checksums: list[int]
    stored: str
    kernel: dict[str, Any]
    admissibility: dict[str, Any]
    mirrored: bool
    tolerance: float
    norm: float
    dtype: str
    notes: list[str]

    @property
    def n_shards(self) -> int:
        return len(self.checksums)

    @property
    def frame(self) -> Frame:
        """All boxes."""
        return Frame.of(self.n_points, self.halvings, self.halvings_per_level)

    @property
    def rule(self) -> Admissibility:
        given = dict(self.admissibility)
        return ADMISSIBILITIES[given.pop("name")](**given)

    @property
    def _told(self) -> dict[str, Any]:
        return {"version": _VERSION} | {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def checksum(self) -> str:
        """SHA-256 of the description."""
        return _checksum(self._told)

    def write(self, path: Path) -> None:
        """Write the description, which makes the folder complete."""
        told = self._told | {"checksum": self.checksum}
        (path / DESCRIPTION).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Description":
        """Read the description of a folder.

        Raises:
            ArtifactError: If there is none, or one that this program does not read.
        """
        try:
            found = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
            if found["version"] != _VERSION:
                raise ArtifactError(
                    f"{path} holds shards of another version than {_VERSION}, which this program reads; compress again"
                )
            if found.pop("checksum") != _checksum(found):
                raise ValueError("it differs from what was written")
            return cls(**{name: value for name, value in found.items() if name != "version"})
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ArtifactError(f"{path} holds no divided H2 matrix: {DESCRIPTION} is missing") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArtifactError(
                f"{path} holds a damaged divided H2 matrix: {DESCRIPTION}: {error}"
            ) from error


def _checksum(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def block_arrays(name: str, blocks: Blocks, heights: Array, numbers: Array) -> dict[str, Array]:
    """Return blocks as arrays of a shard.

    Args:
        name: Prefix of the arrays' names.
        blocks: The blocks.
        heights: Number of rows of each box's blocks.
        numbers: Number of each box in the whole tree.
    """
    arrays = {f"{name}.{f.name}": getattr(blocks, f.name) for f in fields(Blocks)}
    pair = {
        f"{name}.{side}": numbers[arrays[f"{name}.{side}"]].astype(np.int32) for side in ("first", "second")
    }
    return arrays | pair | {f"{name}.heights": heights[blocks.first].astype(np.int32)}


def basis_arrays(name: str, basis: Basis, boxes: NDArray[np.int32], numbers: Array) -> dict[str, Array]:
    """Return all bases of `basis`, those of `boxes`, as arrays of a shard; `numbers` as in `block_arrays`."""
    return {
        f"{name}.boxes": numbers[boxes].astype(np.int32),
        f"{name}.rank": basis.rank[boxes],
        f"{name}.n_unknowns": np.diff(basis.order_start)[boxes],
        f"{name}.skeletons": basis.skeletons,
        f"{name}.order": basis.order,
        f"{name}.values": basis.values,
    }


def pairs_of_rows(
    shard: Shard, name: str, wanted: Callable[[Array], NDArray[np.bool_]], *, mirrored: bool
) -> Iterator[tuple[tuple[int, int], Array]]:
    """Read and yield the blocks of wanted row boxes; for mirrored pairs, also the transposes of such blocks."""
    for group in ("inner", "outer"):
        first, second, start, heights = (
            shard[f"{name}.{group}.{part}"] for part in ("first", "second", "start", "heights")
        )
        here, turned = wanted(first), np.zeros(len(first), bool)
        if mirrored and group == "inner":
            turned = wanted(second) & (first != second)
        for low, high in _runs(here | turned):
            values = shard.part(f"{name}.{group}.values", int(start[low]), int(start[high]))
            run = slice(low, high)
            ends = start[low : high + 1] - start[low]
            table = here[run], turned[run], first[run], second[run], heights[run], ends[:-1], ends[1:]
            for direct, twice, b, c, height, begin, end in zip(*(p.tolist() for p in table), strict=True):
                block = values[begin:end]
                if direct:
                    yield (b, c), block
                if twice:
                    yield (c, b), block.reshape(-1, height).T.ravel() if height else block


def _runs(chosen: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return first and last + 1 of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return [(int(low), int(high)) for low, high in edges.reshape(-1, 2)]


def joined(pairs: FlatBlocks, stored: np.dtype[Any]) -> Blocks:
    """Return blocks in the flat layout, sorted by pair."""
    order = sorted(pairs)
    start = np.concatenate([[0], np.cumsum([pairs[pair].size for pair in order], dtype=np.int64)]).astype(
        np.int64
    )
    values = np.concatenate([np.zeros(0, stored), *(pairs[pair] for pair in order)])
    first, second = (np.array([pair[i] for pair in order], np.int32) for i in range(2))
    return Blocks(first, second, start, values)


@dataclass
class BasisParts:
    """Bases box by box, as they come from shards.

    Attributes:
        lists: Skeletons, order and T of each box that was kept, by its number.
    """

    lists: dict[int, tuple[Array, Array, Array]]

    def take(self, shard: Shard, name: str, wanted: Callable[[Array], NDArray[np.bool_]]) -> None:
        """Read the bases of wanted boxes of a shard."""
        index = boxes, rank, n = tuple(shard[f"{name}.{part}"] for part in ("boxes", "rank", "n_unknowns"))
        ends = _ends(rank, n)
        for low, high in _runs(wanted(boxes)):
            flat = (
                shard.part(f"{name}.{part}", int(end[low]), int(end[high]))
                for part, end in zip(("skeletons", "order", "values"), ends, strict=True)
            )
            self.add(*(part[low:high] for part in index), *flat)

    def add(self, boxes: Array, rank: Array, n_unknowns: Array, *flat: Array) -> None:
        """Keep bases, given as they are in a shard: skeletons, order and values are flat, box after box."""
        ends = _ends(rank, n_unknowns)
        for i, box in enumerate(boxes.tolist()):
            skeletons, order, values = (
                part[end[i] : end[i + 1]] for part, end in zip(flat, ends, strict=True)
            )
            self.lists[box] = skeletons, order, values

    def arrays(self, boxes: list[int], stored: np.dtype[Any]) -> tuple[Array, ...]:
        """Return the bases of some boxes as `add` takes them."""
        lists = [self.lists[box] for box in boxes]
        rank, n_unknowns = (np.array([len(parts[i]) for parts in lists], np.int32) for i in range(2))
        kinds = np.dtype(np.int32), np.dtype(np.int32), stored
        flat = (
            np.concatenate([np.zeros(0, kind), *(parts[i] for parts in lists)])
            for i, kind in enumerate(kinds)
        )
        return np.array(boxes, np.int64), rank, n_unknowns, *flat

    def joined(self, numbers: Array, stored: np.dtype[Any]) -> Basis:
        """Return the kept bases in the flat layout for boxes of these numbers; a box without one has rank 0."""
        boxes, ranks, n_unknowns, skeletons, order, values = self.arrays(sorted(self.lists), stored)
        rank, counts = np.zeros(len(numbers), np.int32), np.zeros(len(numbers), np.int64)
        at = np.searchsorted(numbers, boxes)
        rank[at], counts[at] = ranks, n_unknowns
        return Basis(
            rank, skeletons, order, values, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        )


def _ends(rank: Array, n_unknowns: Array) -> list[NDArray[np.int64]]:
    """Return where each box's skeletons, order and values start."""
    counts = rank, n_unknowns, rank.astype(np.int64) * (n_unknowns - rank)
    return [np.concatenate([[0], np.cumsum(part, dtype=np.int64)]) for part in counts]


def _all(boxes: Array) -> NDArray[np.bool_]:
    return np.ones(len(boxes), bool)


def load_whole(path: Path) -> H2Form:
    """Read all shards of a folder into one matrix.

    Raises:
        ArtifactError: If a file is missing or damaged.
    """
    told = Description.read(path)
    frame = told.frame
    numbers = np.arange(len(frame.start))
    sides = ("columns",) if told.mirrored else ("columns", "rows")
    bases = {side: BasisParts({}) for side in sides}
    near: FlatBlocks = {}
    far: FlatBlocks = {}
    parts: dict[str, list[Array]] = {
        name: [] for name in ("points", "numbers", "lower", "upper", "diagonal_term")
    }
    stored = np.dtype(told.stored)
    for number, checksum in enumerate(told.checksums):
        check_shard(path, number, checksum)
        with Shard(path, number) as shard:
            for name, found in parts.items():
                found += [shard[name]] if name in shard else []
            for side, basis in bases.items():
                basis.take(shard, side, _all)
            for name, pairs in (("near", near), ("far", far)):
                for (b, c), block in pairs_of_rows(shard, name, _all, mirrored=False):
                    if b <= c or not told.mirrored:
                        pairs[b, c] = block
    whole = {name: np.concatenate(found) for name, found in parts.items() if found}
    tree = frame.tree(whole["points"], whole["numbers"], Bounds(whole["lower"], whole["upper"]))
    column_basis = bases["columns"].joined(numbers, stored)
    assert np.array_equal(np.diff(column_basis.order_start), unknowns(tree, column_basis.rank))
    return H2Form(
        Geometry.of(tree, tree, told.rule),
        column_basis if told.mirrored else bases["rows"].joined(numbers, stored),
        column_basis,
        joined(near, stored),
        joined(far, stored),
        told.mirrored,
        whole.get("diagonal_term"),
        kernels.from_dict(told.kernel),
        told.tolerance,
        told.norm,
        np.dtype(told.dtype),
        tuple(told.notes),
    )
