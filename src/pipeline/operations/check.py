"""Command `check`: is a study right, and can its results be written?"""

import os
import sys
from argparse import Namespace
from pathlib import Path

from pipeline.config import specs
from pipeline.errors import ArtifactError
from pipeline.operations.studies import RESULTS, namesakes, read_study


def run(options: Namespace) -> None:
    """Validate a study and print one line about it, or about its report."""
    found = read_study(options.study)
    results_folder(RESULTS)
    if options.report:
        print(f"report: {found.folder / 'report' / 'index.html'}")
        return
    study = found.study
    for other in namesakes(found):
        print(
            f"warning: {found.path} and {other} both name study {study.study}, and share {found.folder}",
            file=sys.stderr,
        )
    n_trainings = len(study.training.runs) * len(study.seeds)
    print(
        f"{found.path}: study {found.name}, {n_trainings} trainings, {len(study.precision.runs)} conversions, "
        f"{len(study.matrices)} matrices, {len(specs(study))} specs: all right"
    )


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
