"""Digests of a study's input files outside the results; digests that were computed are cached.

Only files whose size or time has changed are read again: a hundred thousand unchanged images cost one look at each.
A file that was read within two seconds after it was written is read again, because a change in the same tick of the
file system's clock would leave its time unchanged.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.artifacts.disk import sha256_of, write_atomically

#: Seconds within which a file system may give two changes of a file the same time.
TICK = 2.0
ABSENT = "absent"


def digest_of_files(root: Path, cache: Path) -> str:
    """Digest the names and contents of all files below a folder, or of a file: their number and 16 hexadecimal digits.

    Links are followed. Adding, deleting, renaming or altering a file changes the digest; touching one does not. Where
    nothing has that name it is "absent", and a file that can't be read is an OSError. Digests of single files are kept
    in the folder `cache`, with a file for each root; where it cannot be written, nothing is kept.
    """
    if not root.exists():
        return ABSENT
    where = cache / f"{hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]}.json"
    known: dict[str, list[Any]] = {}
    with suppress(OSError, ValueError):
        known = json.loads(where.read_text(encoding="utf-8"))
    now, changed = {}, False
    for name, status in _files_below(root):
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
        entry = known.get(name)
        if entry is None or entry[:3] != stamp or entry[4] < status.st_mtime + TICK:
            entry = [*stamp, sha256_of(root / name if name else root), time.time()]
            changed = True
        now[name] = entry
    if changed or len(now) != len(known):
        with suppress(OSError):
            write_atomically(where, json.dumps(now))
    digest = hashlib.sha256()
    for name in sorted(now):
        digest.update(os.fsencode(name) + b"\0" + now[name][3].encode() + b"\n")
    return f"{len(now)} {'file' if len(now) == 1 else 'files'}, {digest.hexdigest()[:16]}"


def _files_below(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The files of a folder by their names below it; one file has an empty name."""
    if root.is_file():
        yield "", root.stat()
        return
    seen: set[tuple[int, int]] = set()
    folders = [("", os.fspath(root))]
    while folders:
        prefix, folder = folders.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back up
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append((f"{prefix}{entry.name}/", entry.path))
                elif entry.is_file():
                    yield prefix + entry.name, entry.stat()
