"""Files on a disk: checksums, atomic writes, permissions, dates, patience, and errors of the disk in words."""

import errno
import hashlib
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import ArtifactError

#: Seconds in which a shared file system may still show a file that another node has written.
SECONDS_TO_APPEAR = 60.0


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or nothing: under a temporary name of this process, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("x", encoding="utf-8") as file:  # never through a link
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def errors_of_the_disk(folder: Path) -> Iterator[None]:
    """Re-raise errors of a full or read-only disk as one line that says what to do."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        # NumPy and safetensors tell of a full disk only in their text.
        told = "No space left on device" in str(error) or (
            isinstance(error, OSError) and " written" in str(error)
        )
        if told or number in (errno.ENOSPC, errno.EDQUOT):
            raise ArtifactError(
                f"{folder}: the disk is full, so the result is incomplete; free some space and run again"
            ) from error
        if isinstance(error, OSError) and number in (errno.EACCES, errno.EROFS, errno.EPERM):
            where = error.filename or folder
            raise ArtifactError(
                f"{where}: {error.strerror}; correct its permissions and run again"
            ) from error
        raise


def share(path: Path) -> None:
    """Give a file the user's usual permissions: safetensors lets only the owner read, but groups share results."""
    mask = os.umask(0o022)  # which can only be read by setting it
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def make_folder_of(manifest: Path) -> None:
    """Make the folder of an artefact; ArtifactError if that cannot be, or a folder stands in the manifest's place."""
    folder = manifest.parent
    if manifest.is_dir():
        raise ArtifactError(f"{manifest}: is a folder; the output of a stage is the manifest.json in it")
    with errors_of_the_disk(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
            raise ArtifactError(
                f"{folder}: no folder can be made there ({error.strerror}); name another"
            ) from error


def date_after(manifest: Path, inputs: Iterable[Path]) -> None:
    """Make the files of an artefact no older than its inputs.

    Snakemake remakes whatever is older than its inputs. Without this, a node whose clock is behind would write such
    results, a node whose clock is ahead would write such inputs, and a study would never be finished.
    """
    newest = max((path.stat().st_mtime_ns for path in inputs), default=0)
    if not manifest.is_file():
        return
    # The manifest last: its presence, and so its date, says that the artefact is complete.
    for file in [*(path for path in manifest.parent.iterdir() if path != manifest), manifest]:
        if file.is_file() and file.stat(follow_symlinks=False).st_mtime_ns < newest:
            os.utime(file, ns=(newest, newest), follow_symlinks=False)


@dataclass(frozen=True)
class Patience:
    """A minute in which a file that is missing on this node may still appear."""

    seconds: float = field(default_factory=lambda: SECONDS_TO_APPEAR)
    _begin: float = field(default_factory=time.monotonic)

    @property
    def _left(self) -> float:
        return self._begin + self.seconds - time.monotonic()

    @property
    def ended(self) -> bool:
        return self._left <= 0

    def pause(self) -> None:
        """Wait a second, before the next look."""
        time.sleep(max(min(1.0, self._left), 0.0))
