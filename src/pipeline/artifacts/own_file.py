"""A user's own file, before it is opened: whether it is there, is a file, and may be read."""

import os
import sys
from pathlib import Path

from pipeline.errors import ConfigError


def require_name(path: Path) -> None:
    """Raise ConfigError unless a file's name can be passed to every library.

    This fails where its bytes are not UTF-8, and where Python decodes names as ASCII: PYTHONUTF8=0 in the locale C.
    """
    try:
        os.fsencode(path)
        str(path).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{path}: cannot be opened, because its name is not written in the encoding of file names, which is "
            f"{sys.getfilesystemencoding()} here; rename the file, or set PYTHONUTF8=1"
        ) from None


def require_file(path: Path) -> None:
    """Raise ConfigError, with what is there and what to do, unless a path is a file that may be read.

    The cases are told apart here, because libraries that read files block on a pipe, and give the same error for a
    folder, a dead link and a file without permission.
    """
    require_name(path)
    try:
        is_folder = path.is_dir()
    except OSError as failure:  # for names that no file system takes
        raise ConfigError(
            f"{str(path)[:100]}: there is no such file ({failure.strerror}); name one"
        ) from None
    if is_folder:
        raise ConfigError(f"{path}: is a folder; name a file in it")
    if not os.path.lexists(path):
        raise ConfigError(f"{path}: there is no such file; paths start at {Path.cwd()}")
    if not path.exists():
        raise ConfigError(f"{path}: is a link to {os.readlink(path)}, which is not there; correct the link")
    if not path.is_file():
        raise ConfigError(f"{path}: is a pipe or a device; write its content to a file, and name that")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"{path}: cannot be read (permission denied); correct its permissions")
