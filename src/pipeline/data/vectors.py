"""Vectors with a row for every point, from a user's `.npy` file."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.own_file import require_file
from pipeline.errors import ConfigError
from pipeline.options import LARGEST

ROWS_AT_ONCE = 65536


def open_vectors(path: Path, n: int | None) -> NDArray[Any]:
    """Map a file of vectors into memory.

    Args:
        path: The file.
        n: Number of rows that it must have; None if that is not known.

    Raises:
        ConfigError: If it is not an array of real numbers of shape (n,) or (n, m).
    """
    array = open_array(path)
    wanted = "n" if n is None else f"{n}"
    right = array.ndim in (1, 2) and array.size and array.dtype.kind in "fiu"
    if not right or (n is not None and len(array) != n):
        raise ConfigError(
            f"{path}: holds {array.dtype} of shape {array.shape}; wanted real numbers of shape ({wanted},) or "
            f"({wanted}, m), a row for every point that is not held out"
        )
    return array


def open_array(path: Path) -> NDArray[Any]:
    """Map a `.npy` file into memory.

    Raises:
        ConfigError: If there is no such file, or it is not an array that numpy.save wrote.
    """
    require_file(path)
    if path.stat().st_size == 0:
        raise ConfigError(f"{path}: is empty; write it with numpy.save")
    with path.open("rb") as file:
        magic = file.read(len(np.lib.format.MAGIC_PREFIX))
    if magic.startswith(b"PK\x03\x04"):
        raise ConfigError(f"{path}: holds several arrays; write the one that is meant with numpy.save")
    if magic != np.lib.format.MAGIC_PREFIX:
        raise ConfigError(
            f"{path}: not a readable array (it begins with {magic!r}); write it with numpy.save"
        )
    try:
        with np.errstate(all="raise"):  # the product of a header's sizes may overflow
            array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, ArithmeticError) as error:
        text = " ".join(str(error).split())[:200]
        if "Python objects" in text:
            text = "it holds objects of Python"
        raise ConfigError(f"{path}: not a readable array ({text}); write it with numpy.save") from None
    return array


def finite_rows(path: Path, rows: NDArray[Any], first: int = 0) -> NDArray[np.float64]:
    """Read rows in double precision.

    Args:
        path: The file, for the message.
        rows: Some rows of the file.
        first: Number of rows before them.

    Raises:
        ConfigError: If a number is NaN, infinite or too large; the message names its row, counted from 1.
    """
    with np.errstate(over="ignore"):
        found = np.array(rows, np.float64)
    bad = np.argwhere(~(np.abs(found) <= LARGEST))
    if len(bad):
        value = found[tuple(bad[0])]
        what = f"{value:g}" if np.isfinite(value) else "NaN or infinity"
        wanted = f"numbers of size {LARGEST:g} at most" if np.isfinite(value) else "finite numbers"
        raise ConfigError(f"{path}: row {first + bad[0][0] + 1} holds {what}; wanted {wanted}, so correct it")
    return found


def require_finite(path: Path, array: NDArray[Any]) -> None:
    """Read all rows of an array, some at a time.

    Raises:
        ConfigError: If a number is NaN, infinite or too large.
    """
    for first in range(0, len(array), ROWS_AT_ONCE):
        finite_rows(path, array[first : first + ROWS_AT_ONCE], first)
