"""A file of one's own, before it is opened: whether it is there, is a file, and may be read."""

import os
from pathlib import Path

from pipeline.errors import ConfigError


def require_file(path: Path) -> None:
    """Make sure that a path is a file that may be read.

    Anything else is told apart here, since the libraries that read files hang on a pipe and call a folder, a dead link
    and a file without permission alike.

    Raises:
        ConfigError: If there is no such file; the message says what is there instead, and what to do.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file in it")
    if not os.path.lexists(path):
        raise ConfigError(f"{path}: there is no such file; paths start at {Path.cwd()}")
    if not path.exists():
        raise ConfigError(f"{path}: is a link to {os.readlink(path)}, which is not there; mend the link")
    if not path.is_file():
        raise ConfigError(f"{path}: is a pipe or a device; write its content to a file, and name that")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"{path}: may not be read; mend its permissions")
