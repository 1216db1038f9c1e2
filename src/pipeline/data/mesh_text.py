"""Checks of mesh files that meshio's readers omit; errors name the first wrong line.

meshio reads a file that was cut between two facets as a smaller mesh, text of another format as STL, and a vertex
number of 0 or below as counted from the end.
"""

import re
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

from pipeline.errors import ConfigError

HEADER_BYTES, TRIANGLE_BYTES = 84, 50  # of a binary STL file
FACET = ("facet normal", "outer loop", "vertex", "vertex", "vertex", "endloop", "endfacet")
SHOWN = 40


def check_stl(path: Path) -> None:
    """Check the size of a binary file, or every line of a text file.

    Raises:
        ConfigError: If a line or the size is wrong; the message names the first such line, or the right size.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    n = int.from_bytes(head[80:84], "little") if len(head) == HEADER_BYTES else 0
    if len(head) == HEADER_BYTES and size == HEADER_BYTES + n * TRIANGLE_BYTES:
        return
    if head[:5] != b"solid":
        told = f"its header announces {n:,} triangles, which take {HEADER_BYTES + n * TRIANGLE_BYTES:,} bytes"
        raise ConfigError(
            f"{path}: wanted text that begins with 'solid', or a binary STL file; {told if n else 'it is neither'}, "
            f"found {size:,} bytes; write it again"
        )
    wanted, inside, solid = cycle(FACET), False, False
    last = 0
    for last, words in _lines(path):
        word = words[0]
        if not inside and word in ("solid", "endsolid"):
            if (word == "solid") == solid:
                break
            solid = not solid
            continue
        expected = next(wanted)
        inside = expected != "endfacet"
        head_words = expected.split()
        numbers = words[len(head_words) :]
        n_numbers = 3 if expected in ("vertex", "facet normal") else 0
        if (
            not solid
            or words[: len(head_words)] != head_words
            or len(numbers) != n_numbers
            or not all(map(_is_number, numbers))
        ):
            told = f"'{expected}'" + (" and three numbers" if n_numbers else "")
            raise _wrong(path, last, told if solid else "'solid'", words)
    else:
        if not solid and last:
            return
    raise ConfigError(f"{path}: line {last}: it ends without 'endsolid', so it is cut short; write it again")


def check_obj(path: Path) -> None:
    """Check the lines of vertices and faces.

    Raises:
        ConfigError: If a line is wrong; the message names the first such line.
    """
    n, largest, where = 0, 0, (0, [""])
    for number, words in _lines(path):
        if words[0] == "v":
            n += 1
            if len(words) != 4 or not all(map(_is_number, words[1:])):
                raise _wrong(path, number, "'v' and three coordinates", words)
        elif words[0] == "f":
            corners = [word.partition("/")[0] for word in words[1:]]
            if len(corners) < 3 or not all(re.fullmatch(r"-?[0-9]{1,18}", corner) for corner in corners):
                raise _wrong(path, number, "'f' and the numbers of three vertices", words)
            if any(int(corner) < 1 for corner in corners):
                raise _wrong(path, number, "numbers of vertices from 1", words)
            if (last := max(map(int, corners))) > largest:
                largest, where = last, (number, words)
    if largest > n > 0:
        raise _wrong(path, where[0], f"numbers of vertices from 1 to {n}", where[1])


def check_ply(path: Path) -> None:
    """Check that the header ends, and that a text file has as many rows as its header tells.

    Raises:
        ConfigError: If the header does not end, or there are more or fewer rows.
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
    header, mark, _ = head.partition(b"end_header")
    if head.startswith(b"ply") and not mark:  # meshio would wait for 'end_header' forever
        raise ConfigError(f"{path}: its header has no 'end_header'; write it again")
    if not mark or b"format ascii" not in header:
        return
    told = sum(map(int, re.findall(rb"(?m)^element\s+\w+\s+(\d{1,18})\s*$", header)))
    rows = [words for _, words in _lines(path)]
    found = len(rows) - 1 - next(i for i, words in enumerate(rows) if words[0] == "end_header")
    if found != told:
        raise ConfigError(f"{path}: its header announces {told:,} rows, found {found:,}; write it again")


def check_vtk(path: Path) -> None:
    """Check that a file has a kind for each cell.

    Raises:
        ConfigError: If the two counts differ.
    """
    content = path.read_bytes()
    cells = re.search(rb"(?m)^\s*CELLS\s+(\d{1,18})\s+\d", content)
    kinds = re.search(rb"(?m)^\s*CELL_TYPES\s+(\d{1,18})([\s\d]*)", content)
    if cells is None or kinds is None:
        return
    # From version 5 on the first number counts offsets, one more than cells.
    new = re.match(rb"# vtk DataFile Version ([5-9]|\d\d)", content) is not None
    n_cells, n_kinds = int(cells[1]) - new, int(kinds[1])
    if b"ASCII" in content[:600].upper().split() and len(kinds[2].split()) != n_kinds:
        raise ConfigError(
            f"{path}: announces {n_kinds:,} CELL_TYPES, found {len(kinds[2].split()):,}; write it again"
        )
    if n_cells != n_kinds:
        raise ConfigError(f"{path}: announces {n_cells:,} CELLS but {n_kinds:,} CELL_TYPES; write it again")


def check_msh(path: Path) -> None:
    """Check that sections end, and that elements of a text file have as many vertices as they need, numbered from 1.

    Raises:
        ConfigError: If a section or a line is wrong; the message names the first.
    """
    with path.open("rb") as file:
        head = file.read(200).split()
    if head[:1] != [b"$MeshFormat"]:
        raise ConfigError(
            f"{path}: wanted a Gmsh file, which begins with $MeshFormat; found {_shown(head)}; write it again as "
            "version 2.2 or 4.1"
        )
    if (
        len(head) < 3 or head[2] != b"0" or head[1][:1] not in b"24"
    ):  # binary, or a version that meshio refuses
        return
    second = head[1].startswith(b"2")
    section, began, block_left = "", 0, 0
    for number, words in _lines(path):
        if words[0].startswith("$End"):
            if words[0] != f"$End{section}":
                raise _wrong(
                    path, number, f"$End{section}" if section else "the beginning of a section", words
                )
            section = ""
        elif words[0].startswith("$") and len(words) == 1:
            if section:
                raise _wrong(path, number, f"$End{section}", words)
            section, began, block_left = words[0][1:], number, 0
        elif section == "Elements" and number > began + 1:
            if not all(re.fullmatch(r"-?[0-9]{1,18}", word) for word in words):
                raise _wrong(path, number, "whole numbers", words)
            values = list(map(int, words))
            if second:
                if len(values) < 4 or values[2] < 0:
                    raise _wrong(path, number, "an element, its kind, tags and vertices", words)
                kind, vertices = values[1], values[3 + values[2] :]
            elif not block_left:
                if len(values) != 4:
                    raise _wrong(path, number, "the four numbers of a block of elements", words)
                kind, block_left, vertices = values[2], values[3], []
                continue
            else:
                block_left, vertices = block_left - 1, values[1:]
            if kind == 2 and len(vertices) != 3:
                raise _wrong(path, number, "a triangle of three vertices", words)
            if min(vertices, default=1) < 1:
                raise _wrong(path, number, "numbers of vertices from 1", words)
    if section:
        raise ConfigError(f"{path}: ends without $End{section}, so it is cut short; write it again")


#: Checks before meshio reads a file, by its ending.
CHECKS: dict[str, Callable[[Path], None]] = {
    ".stl": check_stl,
    ".obj": check_obj,
    ".ply": check_ply,
    ".vtk": check_vtk,
    ".msh": check_msh,
}


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the words of each line that is neither empty nor a comment."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            words = line.split()
            if words and not words[0].startswith("#"):
                yield number, words


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return "_" not in word


def _shown(words: list[bytes] | list[str]) -> str:
    text = " ".join(word if isinstance(word, str) else word.decode("latin-1") for word in words)
    return ascii(text[:SHOWN])


def _wrong(path: Path, number: int, wanted: str, words: list[str]) -> ConfigError:
    return ConfigError(f"{path}: line {number}: wanted {wanted}, found {_shown(words)}; correct the line")
