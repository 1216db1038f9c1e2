"""Files that are small enough to be read before anything runs."""

import os
from collections.abc import Iterator
from pathlib import Path

#: Bytes of files that are read before anything runs; larger ones are left to the stage that reads them.
READ_UP_TO = 64_000_000


def is_small(name: str) -> bool:
    """Whether a file, or all files of a folder together, are small enough to be read before anything runs."""
    total = 0
    for n_bytes in _sizes(Path(name)):
        total += n_bytes
        if total > READ_UP_TO:
            return False
    return True


def _sizes(path: Path) -> Iterator[int]:
    """Sizes of the files that a path names; missing files are left to whoever reads them."""
    if path.is_dir():
        for folder, _, files in os.walk(path, followlinks=True):
            for file in files:
                yield (Path(folder) / file).stat().st_size if (Path(folder) / file).exists() else 0
    elif path.exists():
        yield path.stat().st_size
