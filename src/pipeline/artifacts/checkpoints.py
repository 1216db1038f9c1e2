"""Checkpoints of running jobs. They lie outside the workflow's outputs, which Snakemake deletes when a job fails.

A checkpoint's folder is named by a digest of everything that the job's result depends on. A job therefore finds its own
checkpoint after a kill, and never another job's. A finished job removes its own. Two studies may ask for the same
training: a lock beside the folder lets one of them write at a time. The system frees the lock when its process ends.
"""

import errno
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.disk import Patience, errors_of_the_disk, flush, sha256_of, share, write_atomically
from pipeline.artifacts.lock import NO_LOCKS

if TYPE_CHECKING:
    from filelock import FileLock


@dataclass(frozen=True)
class CheckpointFolder:
    """The place of one job's checkpoint: tensors in safetensors, and scalars in JSON, written last by rename."""

    folder: Path

    @classmethod
    def of(cls, root: Path, identity: Mapping[str, Any]) -> "CheckpointFolder":
        """Return the folder of a job that is identified by a mapping of JSON values."""
        text = json.dumps(identity, sort_keys=True)
        return cls(root / hashlib.sha256(text.encode()).hexdigest()[:24])

    @classmethod
    def all(cls, root: Path) -> "list[CheckpointFolder]":
        """Return every checkpoint below a folder, including those that have only a lock so far."""
        names = {path.stem for path in root.glob("*") if path.suffix in ("", ".lock")}
        return [cls(root / name) for name in sorted(names) if re.fullmatch(r"[0-9a-f]{24}", name)]

    @property
    def _lock_file(self) -> Path:
        return self.folder.with_suffix(".lock")

    def try_lock(self, seconds: float) -> "FileLock | None":
        """Take the lock of this checkpoint, or give up after some seconds; `unlock` it when done.

        On a file system without locks there is none to take: a warning then says what the user has to avoid.
        """
        from filelock import FileLock, Timeout

        with errors_of_the_disk(self.folder.parent):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            # A lock that only exists as a file cannot be told from that of a dead node.
            lock = FileLock(self._lock_file, fallback_to_soft=False)
            try:
                lock.acquire(timeout=seconds)
            except Timeout:
                return None
            except OSError as error:
                if error.errno == errno.ESTALE:  # its holder on another node has just removed it
                    return None
                if error.errno not in NO_LOCKS:
                    raise
                logging.getLogger(__name__).warning(
                    "%s: a file system without locks; start no training of the same network twice at a time",
                    self.folder.parent,
                )
        return lock

    def unlock(self, lock: "FileLock") -> None:
        """Release the lock; without a checkpoint, delete the lock's file first."""
        if not self.folder.exists():
            self._lock_file.unlink(missing_ok=True)
        lock.release()

    def save(self, tensors: Mapping[str, Any], scalars: Mapping[str, Any]) -> None:
        """Replace the checkpoint; a kill at any moment leaves the former or the new one complete."""
        from safetensors.torch import save_file

        with errors_of_the_disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            former = self._read_head() or {}
            # Two names in turn: the file that the current JSON names is never written to.
            name = "b.safetensors" if former.get("tensors") == "a.safetensors" else "a.safetensors"
            file = self.folder / name
            # The file may be a link, and writing would follow it.
            file.unlink(missing_ok=True)
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
            share(file)
            flush(file)
            content = {
                "tensors": name,
                "n_bytes": file.stat().st_size,
                "sha256": sha256_of(file),
                "scalars": scalars,
            }
            write_atomically(self.folder / "checkpoint.json", json.dumps(content))

    def load(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the tensors and scalars of the last checkpoint, or None if there is none or it is damaged.

        A job that resumes on another node may see the JSON before the tensors: it looks again, up to a minute.
        """
        from safetensors.torch import load_file

        patience = Patience()
        while (head := self._read_head()) is not None:
            file = self.folder / head["tensors"]
            if file.is_file() and file.stat().st_size == head["n_bytes"]:
                return (load_file(file), head["scalars"]) if sha256_of(file) == head["sha256"] else None
            if patience.ended:
                return None
            patience.pause()
        return None

    def _read_head(self) -> dict[str, Any] | None:
        try:
            head: dict[str, Any] = json.loads((self.folder / "checkpoint.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return head if {"tensors", "n_bytes", "sha256", "scalars"} <= head.keys() else None

    def remove(self) -> None:
        """Delete the checkpoint; none is no error."""
        shutil.rmtree(self.folder, ignore_errors=True)
