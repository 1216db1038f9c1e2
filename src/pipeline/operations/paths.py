"""Paths that have to be there, or free to be written to, before anything runs."""

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.artifacts.own_file import require_file
from pipeline.errors import ArtifactError, ConfigError


def own_files(files: Mapping[str, str]) -> None:
    """Make sure that the user's own files are there.

    Args:
        files: Each file by the key of the study that names it.

    Raises:
        ConfigError: If one is missing, is no file, or may not be read; the message names its key.
    """
    for key, file in files.items():
        try:
            require_file(Path(file))
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from None


def results_folder(path: Path) -> None:
    """Make sure that results can be written.

    Raises:
        ArtifactError: If a file or a dead link is in the way, or the folder may not be written to.
    """
    if path.is_symlink() and not path.exists():
        raise ArtifactError(
            f"{path}: a link to {os.readlink(path)}, which isn't there; make that folder or remove the link"
        )
    if path.exists() and not path.is_dir():
        raise ArtifactError(f"{path}: expected a folder for results, found a file; move it away")
    nearest = path if path.exists() else path.parent
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ArtifactError(f"{nearest}: may not be written to; mend its permissions or work elsewhere")
