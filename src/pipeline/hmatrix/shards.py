"""H2 matrices in several files: each shard has the rows of a range of boxes, and any number of processes can read them.

A shard holds points, bases of its boxes (the first shard also of those above the cut) and blocks, boxes numbered as in
the whole tree. Blocks between boxes of one shard of a symmetric matrix are kept once; those of two shards in both.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.errors import ArtifactError
from pipeline.hmatrix import kernels
from pipeline.hmatrix.admissibility import ADMISSIBILITIES, Admissibility
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import Bounds, Frame
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.geometry import Geometry
from pipeline.hmatrix.skeleton import Basis, unknowns

DESCRIPTION = "h2shards.json"
_VERSION = 2
_COMPLEX = "!"  # behind the name of complex numbers, kept as pairs of reals
Array = NDArray[Any]
FlatBlocks = dict[tuple[int, int], Array]  # a block, flat and column-major, for each pair of boxes


@dataclass(frozen=True)
class Description:
    """What all shards share.

    Attributes:
        n_points: Points of the matrix.
        halvings, halvings_per_level: See `cluster.build_tree`.
        edges: First place of each shard in tree order, and the number of points.
        checksums: CRC-32 of each shard's file.
        kernel, admissibility: Their own descriptions.
        mirrored, tolerance, norm, dtype, notes: See `H2Form`.
    """

    n_points: int
    halvings: int
    halvings_per_level: int
    edges: list[int]
    checksums: list[int]
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

    def write(self, path: Path) -> None:
        """Write the description, which makes the folder complete."""
        text = json.dumps(
            {"version": _VERSION} | {f.name: getattr(self, f.name) for f in fields(self)}, indent=2
        )
        (path / DESCRIPTION).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Description":
        """Read the description of a folder.

        Raises:
            ArtifactError: If there is none, or one that this program does not read.
        """
        try:
            found = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
            if found.pop("version") != _VERSION:
                raise ArtifactError(
                    f"{path} holds shards of another version than {_VERSION}, which this program reads; compress again"
                )
            return cls(**found)
        except FileNotFoundError as error:
            raise ArtifactError(f"{path} holds no divided H2 matrix: {DESCRIPTION} is missing") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArtifactError(
                f"{path} holds a damaged divided H2 matrix: {DESCRIPTION}: {error}"
            ) from error


def shard_path(path: Path, number: int) -> Path:
    return path / f"shard-{number:05d}.safetensors"


def write_shard(path: Path, number: int, arrays: dict[str, Array]) -> int:
    """Write one shard, and return its checksum."""
    complex_ones = {name for name, values in arrays.items() if values.dtype.kind == "c"}
    flat = {
        name + _COMPLEX if name in complex_ones else name: np.ascontiguousarray(
            values.view(values.real.dtype) if name in complex_ones else values
        )
        for name, values in arrays.items()
    }
    content = save(flat)
    shard_path(path, number).write_bytes(content)
    return zlib.crc32(content)


def read_shard(path: Path, number: int, checksum: int) -> dict[str, Array]:
    """Read one shard.

    Raises:
        ArtifactError: If it is missing, or not as it was written.
    """
    file = shard_path(path, number)
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(f"{file} is missing: a shard of the matrix") from error
    if zlib.crc32(content) != checksum:
        raise ArtifactError(f"{file} is damaged, or of another matrix: {DESCRIPTION} has another checksum")
    try:
        found = load(content)
    except (ValueError, SafetensorError) as error:
        raise ArtifactError(f"{file} is damaged: {error}") from error
    return {
        name.removesuffix(_COMPLEX): values.view(np.result_type(values.dtype, np.complex64))
        if name.endswith(_COMPLEX)
        else values
        for name, values in found.items()
    }


def block_arrays(name: str, blocks: Blocks, heights: Array, numbers: Array) -> dict[str, Array]:
    """Return blocks as arrays of a shard.

    Args:
        name: Begins the arrays' names.
        blocks: The blocks.
        heights: Rows of a block of each box.
        numbers: Number of each box in the whole tree.
    """
    arrays = {f"{name}.{f.name}": getattr(blocks, f.name) for f in fields(Blocks)}
    pair = {
        f"{name}.{side}": numbers[arrays[f"{name}.{side}"]].astype(np.int32) for side in ("first", "second")
    }
    return arrays | pair | {f"{name}.heights": heights[blocks.first].astype(np.int32)}


def basis_arrays(name: str, basis: Basis, boxes: NDArray[np.int32], numbers: Array) -> dict[str, Array]:
    """Return the bases of boxes, all those that `basis` has, as arrays of a shard; `numbers` as in `block_arrays`."""
    return {
        f"{name}.boxes": numbers[boxes].astype(np.int32),
        f"{name}.rank": basis.rank[boxes],
        f"{name}.n_unknowns": np.diff(basis.order_start)[boxes],
        f"{name}.skeletons": basis.skeletons,
        f"{name}.order": basis.order,
        f"{name}.values": basis.values,
    }


def pairs_of_rows(
    shard: dict[str, Array], name: str, wanted: Callable[[Array], NDArray[np.bool_]], *, mirrored: bool
) -> Iterator[tuple[tuple[int, int], Array]]:
    """Yield the blocks of wanted row boxes, of mirrored pairs also their transposes."""
    for group in ("inner", "outer"):
        first, second, start, values = (shard[f"{name}.{group}.{f.name}"] for f in fields(Blocks))
        heights = shard[f"{name}.{group}.heights"]
        twice = mirrored and group == "inner"
        table = (wanted(first), wanted(second), first, second, heights, start[:-1], start[1:])
        for here, turned, b, c, height, low, high in zip(*(part.tolist() for part in table), strict=True):
            block = values[low:high]
            if here:
                yield (b, c), block
            if twice and b != c and turned:
                yield (c, b), block.reshape(-1, height).T.ravel() if height else block


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

    def take(self, shard: dict[str, Array], name: str, wanted: Callable[[Array], NDArray[np.bool_]]) -> None:
        """Take the bases of wanted boxes of a shard."""
        boxes, rank, n = (shard[f"{name}.{part}"] for part in ("boxes", "rank", "n_unknowns"))
        ends = [
            np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
            for counts in (rank, n, rank * (n - rank))
        ]
        flat = [shard[f"{name}.{part}"] for part in ("skeletons", "order", "values")]
        for i in np.flatnonzero(wanted(boxes)):
            skeletons, order, values = (
                part[end[i] : end[i + 1]].copy() for part, end in zip(flat, ends, strict=True)
            )
            self.lists[int(boxes[i])] = skeletons, order, values

    def joined(self, numbers: Array, stored: np.dtype[Any]) -> Basis:
        """Return the bases that were kept in the flat layout; boxes have these numbers, and rank 0 if they were not."""
        boxes = sorted(self.lists)
        rank, counts = np.zeros(len(numbers), np.int32), np.zeros(len(numbers), np.int64)
        at = np.searchsorted(numbers, boxes)
        rank[at] = [len(self.lists[box][0]) for box in boxes]
        counts[at] = [len(self.lists[box][1]) for box in boxes]
        skeletons, order, values = (
            np.concatenate([np.zeros(0, kind), *(self.lists[box][i] for box in boxes)])
            for i, kind in enumerate((np.dtype(np.int32), np.dtype(np.int32), stored))
        )
        return Basis(
            rank, skeletons, order, values, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        )


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
    stored = np.dtype(np.float64)
    for number, checksum in enumerate(told.checksums):
        shard = read_shard(path, number, checksum)
        stored = shard["near.inner.values"].dtype
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
