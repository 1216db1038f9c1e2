"""Paths before anything runs: whether they exist, may be written to, and are small enough to be read."""

import os
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

from pipeline.artifacts.own_file import require_file
from pipeline.errors import ArtifactError, errors_about

#: Bytes of files that are read before anything runs; larger ones are left to the stage that reads them.
READ_UP_TO = 64_000_000


def own_files(files: Mapping[str, str]) -> None:
    """Raise ConfigError, naming the key of the study, if one of the user's own files may not be read."""
    for key, file in files.items():
        with errors_about(key):
            require_file(Path(file))


def results_folder(path: Path) -> None:
    """Raise ArtifactError if a file or a dead link is in the results' place, or their folder may not be written to."""
    if path.is_symlink() and not path.exists():
        raise ArtifactError(
            f"{path}: a link to {os.readlink(path)}, which isn't there; make that folder or remove the link"
        )
    if path.exists() and not path.is_dir():
        raise ArtifactError(f"{path}: expected a folder for results, found a file; move it away")
    nearest = path if path.exists() else path.parent
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ArtifactError(f"{nearest}: may not be written to; correct its permissions or work elsewhere")


def is_small(name: str | Path) -> bool:
    """Whether a file, or all files of a folder together, are small enough to be read; missing ones count nothing."""
    path = Path(name)
    below = (Path(folder, file) for folder, _, names in os.walk(path, followlinks=True) for file in names)
    sizes = (file.stat().st_size for file in (below if path.is_dir() else [path]) if file.exists())
    return all(total <= READ_UP_TO for total in accumulate(sizes))
