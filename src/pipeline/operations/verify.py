"""Command `verify`: check an archive of a study, or a folder of results, checksum by checksum."""

import sys
from argparse import Namespace

from pipeline.artifacts.checksums import unpack, verify_archive, verify_folder
from pipeline.errors import ArtifactError
from pipeline.operations.comparison import compared
from pipeline.operations.text import size
from pipeline.runtime.words import counted

MOST_LINES = 50


def run(options: Namespace) -> int:
    """Print what was verified and return 0, or print a line for every file that was altered or lost and return 2."""
    path = options.path
    if not path.exists():
        raise ArtifactError(f"{path}: there is no such file or folder")
    if path.is_dir() and options.into is not None:
        raise ArtifactError(f"{path}: is a folder, and --into unpacks archives")
    verdict = verify_folder(path) if path.is_dir() else verify_archive(path)
    for problem in verdict.problems[:MOST_LINES]:
        print(problem, file=sys.stderr)
    if verdict.problems:
        more = len(verdict.problems) - MOST_LINES
        and_more = f", {more} more than shown" if more > 0 else ""
        print(f"error: {path}: {counted(len(verdict.problems), 'problem')}{and_more}", file=sys.stderr)
        return 2
    if not verdict.n_files:
        raise ArtifactError(
            f"{path}: no artefact and no list of checksums below it; name a folder that a study wrote, such as "
            "results/tiny"
        )
    print(
        f"verified {path}: {counted(verdict.n_files, 'file')}, {size(verdict.n_bytes)}, "
        f"{counted(verdict.n_artefacts, 'artefact')}, "
        "all as they were written"
    )
    if options.against is not None:
        print("\n".join(compared(path, verdict.sums, options.against)))
    if options.into is not None:
        print(f"unpacked to {unpack(path, options.into)}")
    return 0
