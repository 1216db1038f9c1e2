"""One main process per checkout: a lock that dies with its holder.

The lock is `flock` on a file in `.snakemake`, so the kernel frees it when its holder ends in any way, on another node
of a shared file system too; the file's text only tells who that is. A file whose holder is gone locks nothing, and the
next holder takes it over.
"""

import errno
import fcntl
import getpass
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from pipeline.errors import PipelineError


class LockedError(PipelineError):
    """Another process holds the lock."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, and the name of the jobs that it has in a batch system's queue, if any."""

    pid: int
    host: str
    user: str
    since: str
    command: str
    jobs: str = ""

    @classmethod
    def of_this_process(cls, jobs: str) -> "Holder":
        """What a lock file tells about the process that runs this."""
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        return cls(os.getpid(), socket.gethostname(), getpass.getuser(), since, command, jobs)

    def __str__(self) -> str:
        return f"{self.user}'s process {self.pid} on {self.host} since {self.since} ({self.command})"


UNKNOWN = Holder(0, "an unknown host", "someone", "just now", "unknown")


def lock_file(checkout: Path, name: str) -> Path:
    """Where the lock of that name lies, below the folder that Snakemake works in."""
    return checkout / ".snakemake" / f"{name}.lock"


@contextmanager
def hold(checkout: Path, name: str = "main", jobs: str = "") -> Iterator[Holder | None]:
    """Hold a lock of a checkout while the block runs.

    Args:
        checkout: The folder that Snakemake works in.
        name: Locks of different names don't exclude each other.
        jobs: Name of the jobs that the holder will have in a batch system's queue.

    Yields:
        The last holder, if it was killed before it could give the lock back.

    Raises:
        LockedError: With who holds it.
    """
    path = lock_file(checkout, name)
    descriptor = _take(path)
    former = _read(descriptor)
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(Holder.of_this_process(jobs))).encode(), 0)
    try:
        yield former
    finally:
        # While it is still locked, so that nobody's lock but this one's is removed.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def holder(checkout: Path, name: str = "main") -> Holder | None:
    """Who holds a lock now, or nobody."""
    told, alive = _look(lock_file(checkout, name))
    return told or UNKNOWN if alive else None


def killed_holder(checkout: Path, name: str = "main") -> Holder | None:
    """Who held a lock last, if it was killed before it could give the lock back."""
    told, alive = _look(lock_file(checkout, name))
    return None if alive else told


def _look(path: Path) -> tuple[Holder | None, bool]:
    """Who a lock file tells of, and whether somebody holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None, False
    try:
        alive = not _lock(descriptor)
        return _read(descriptor), alive
    finally:
        os.close(descriptor)


def _take(path: Path) -> int:
    """Open and lock the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise LockedError(f"{path}: is a link, which a lock must not be; remove it") from None
            raise
        try:
            if not _lock(descriptor):
                by = _read(descriptor) or UNKNOWN
                raise LockedError(
                    f"{path.parent.parent.resolve()}: in use by {by}; wait until it ends, or end it"
                )
            if _is_still_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # Its last holder removed it between our opening and our locking.
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file, or find it locked. A file system without locks has none to find."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    return True


def _is_still_at(path: Path, descriptor: int) -> bool:
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def _read(descriptor: int) -> Holder | None:
    """The holder that a lock file tells of; none in a new file, or while it is being written."""
    try:
        return Holder(**json.loads(os.pread(descriptor, 1 << 16, 0)))
    except (ValueError, TypeError):
        return None
