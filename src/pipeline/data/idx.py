"""The IDX file format: images and labels as unsigned bytes behind a short header, plain or gzipped.

A header is two zero bytes, a type (8 is unsigned byte), the number of dimensions, and each dimension as a
big-endian 32-bit integer; the values follow, the last dimension fastest [1].

References:
    [1] LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section "File formats".
"""

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 8


def read_idx(path: Path, *, n_dimensions: int, sha256: str | None = None) -> NDArray[np.uint8]:
    """Read a file of unsigned bytes, compressed or not, as its content tells (not its name).

    Args:
        path: The file.
        n_dimensions: Number of dimensions that it must have: 1 for labels, 3 for images.
        sha256: SHA-256 that the decompressed content must have, in hexadecimal; `None` accepts any content.

    Returns:
        A writable array of the shape that the header gives.

    Raises:
        ConfigError: If the file is missing, truncated, corrupt, not of this format or not the expected one; the
            message says which.
    """
    content = _read_content(path)
    values = _parse(content, path, n_dimensions)
    if sha256 is not None:
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise ConfigError(
                f"{path}: the content has the sha256 {found[:12]}..., wanted {sha256[:12]}...; "
                "the file is altered or another data set's: replace it, or set dataset.name to idx for your own images"
            )
    return values


def _read_content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as failure:
        raise ConfigError(
            f"{path}: wanted an IDX file, but it cannot be read ({failure.strerror})"
        ) from failure
    if not raw.startswith(GZIP_MAGIC):
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as failure:
        raise ConfigError(
            f"{path}: wanted a whole gzip file, found {len(raw)} truncated or corrupt bytes ({failure}); "
            "remove or replace it"
        ) from failure


def _parse(content: bytes, path: Path, n_dimensions: int) -> NDArray[np.uint8]:
    wanted = bytes([0, 0, UNSIGNED_BYTE, n_dimensions])
    if content[:4] != wanted:
        raise ConfigError(
            f"{path}: wanted an IDX file of unsigned bytes in {n_dimensions} dimensions, which starts with "
            f"{wanted.hex(' ')}, found {content[:4].hex(' ') or 'an empty file'}; remove or replace it"
        )
    header_length = 4 + 4 * n_dimensions
    if len(content) < header_length:
        raise ConfigError(
            f"{path}: wanted a header of {header_length} bytes, found {len(content)}; "
            "the file is truncated: remove or replace it"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, dtype=">u4", count=n_dimensions, offset=4))
    length = header_length + math.prod(shape)
    if len(content) != length:
        raise ConfigError(
            f"{path}: wanted {length} bytes for the shape {shape} in its header, found {len(content)}; "
            "the file is truncated or corrupt: remove or replace it"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header_length).reshape(shape).copy()
