"""One main process per checkout: a lock that is freed when its holder ends.

The lock is `flock` on a file in `.snakemake`. The kernel frees it however its holder ends, even on another node of a
shared file system; the file's text only tells who the holder is. A file whose holder has ended locks nothing, and the
next holder takes it over. On a file system without locks there is only the text: a holder on this machine has ended
when its process has, and a holder on another machine may always be alive.
"""

import errno
import fcntl
import getpass
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil

from pipeline.errors import PipelineError

#: Error codes of a file system without locks.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class LockedError(PipelineError):
    """Another process holds the lock, or it can't be taken."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        pid, host, user, command: The process.
        since: When it took the lock.
        jobs: The names of its jobs in a batch system's queue, between commas.
        left_since: When the first killed holder began; empty if nothing that killed holders left is still there.
    """

    pid: int
    host: str
    user: str
    since: str
    command: str
    jobs: str = ""
    left_since: str = ""

    @property
    def began(self) -> str:
        """The earliest time at which this holder, or killed holders before it, may have left something behind."""
        return self.left_since or self.since

    def __str__(self) -> str:
        return f"{self.user}'s process {self.pid} on {self.host} since {self.since} ({self.command})"


UNKNOWN = Holder(0, "an unknown host", "someone", "just now", "unknown")


def lock_file(checkout: Path, name: str) -> Path:
    """Return the path of the lock of that name, below the folder that Snakemake works in."""
    return checkout / ".snakemake" / f"{name}.lock"


@dataclass
class HeldLock:
    """A lock that this process holds.

    Attributes:
        jobs: The name of this process's jobs in a batch system's queue; empty while it has none.
        former: The last holder, if it was killed before it could release the lock. Its jobs count as this holder's too
            until `settle`, so that after a failed start the next holder still knows of them.
    """

    descriptor: int
    since: str
    jobs: str
    former: Holder | None
    settled: bool

    def tell(self) -> None:
        """Write who holds the lock; on a full disk the former text stays."""
        owed = None if self.settled else self.former
        names = ",".join(filter(None, [owed.jobs if owed else "", self.jobs]))
        told = Holder(
            pid=os.getpid(),
            host=socket.gethostname(),
            user=getpass.getuser(),
            since=self.since,
            command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            jobs=names,
            left_since=owed.began if owed else "",
        )
        text = json.dumps(asdict(told)).encode()
        os.pwrite(self.descriptor, text, 0)
        os.truncate(self.descriptor, len(text))

    def name_jobs(self, jobs: str) -> None:
        """Record the name of jobs that may be in the queue from now on; an empty name means none."""
        self.jobs = jobs
        self.tell()

    def settle(self) -> None:
        """Forget the last holder: its jobs have ended."""
        self.settled = True
        self.tell()


@contextmanager
def hold(checkout: Path, name: str = "main") -> Iterator[HeldLock]:
    """Hold a lock of a checkout while the block runs; locks of different names don't exclude each other.

    A LockedError names who holds it, or why it can't be taken.
    """
    path = lock_file(checkout, name)
    with _explained(path):
        descriptor = _take(path)
    former = _read(descriptor)
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    held = HeldLock(descriptor, since, "", former, settled=former is None)
    try:
        with _explained(path):
            held.tell()
        yield held
    finally:
        if held.settled:
            # Removed while still locked, so that it cannot be another process's lock.
            path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Re-raise an error of the file system as "cannot be locked", with its reason and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise LockedError(f"{path}: is a link, which a lock must not be; remove it") from None
        raise LockedError(
            f"{path}: can't be locked ({os.strerror(error.errno or 0)}); correct that, or "
            "work in a checkout of your own"
        ) from None


def holder(checkout: Path, name: str = "main") -> Holder | None:
    """Return the current holder of a lock; None if nobody holds it."""
    told, alive = _look(lock_file(checkout, name))
    return told or UNKNOWN if alive else None


def killed_holder(checkout: Path, name: str = "main") -> Holder | None:
    """Return the last holder of a lock if it was killed before it could release the lock."""
    told, alive = _look(lock_file(checkout, name))
    return None if alive else told


def _look(path: Path) -> tuple[Holder | None, bool]:
    """Return the holder that a lock file names, and whether somebody holds the lock."""
    with _explained(path):
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
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            if not _lock(descriptor):
                by = _read(descriptor) or UNKNOWN
                raise LockedError(
                    f"{path.parent.parent.resolve()}: in use by {by}; wait until it ends, or end it"
                    + (f"; if it is dead, remove {path}" if by.host != socket.gethostname() else "")
                )
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # Its last holder removed it between our opening and our locking.
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file; False if somebody holds it, or may hold it where a file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        told = _read(descriptor)
        return told is None or (told.host == socket.gethostname() and not psutil.pid_exists(told.pid))
    return True


def _read(descriptor: int) -> Holder | None:
    """The holder that a lock file names; None in a new file, or while it is being written."""
    try:
        return Holder(**json.loads(os.pread(descriptor, 1 << 16, 0)))
    except (ValueError, TypeError):
        return None
