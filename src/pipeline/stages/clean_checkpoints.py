"""Stage `clean_checkpoints`: remove the checkpoints of interrupted trainings."""

from argparse import Namespace

from pipeline.artifacts.checkpoints import CheckpointFolder
from pipeline.runtime.words import counted


def run(options: Namespace) -> None:
    """Delete all checkpoints below the given folder, except those of running trainings."""
    n_removed = n_kept = 0
    for checkpoint in CheckpointFolder.all(options.checkpoints):
        lock = checkpoint.try_lock(0.0)
        if lock is None:
            n_kept += 1
            continue
        n_removed += checkpoint.folder.exists()
        checkpoint.remove()
        checkpoint.unlock(lock)
    kept = f"; kept {n_kept} in use by running trainings" if n_kept else ""
    print(f"removed {counted(n_removed, 'checkpoint')} below {options.checkpoints}{kept}")
