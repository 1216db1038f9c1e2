"""Dates of files on nodes whose clocks disagree."""

import os
from collections.abc import Iterable
from pathlib import Path


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
