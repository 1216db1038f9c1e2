"""Command `verify`: an archive of a study, or a folder of results, checksum by checksum."""

import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pipeline.artifacts.checksums import MANIFEST, unpack, verify_archive, verify_folder
from pipeline.artifacts.history import PAST_REPORTS
from pipeline.errors import ArtifactError
from pipeline.operations.text import size

MOST_LINES = 50
# Folders of a study whose artefacts hold dates, and are never the same again.
DATED = frozenset({"report", PAST_REPORTS})


def run(options: Namespace) -> int:
    """Print what was verified, or a line for everything that is not as it was written.

    Returns:
        0, or 2 if something is not as it was written.
    """
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
        print(f"error: {path}: {len(verdict.problems)} problems{and_more}", file=sys.stderr)
        return 2
    if not verdict.n_files:
        raise ArtifactError(f"{path}: no artefact and no list of checksums below it")
    print(
        f"verified {path}: {verdict.n_files} files, {size(verdict.n_bytes)}, {verdict.n_artefacts} artefacts, "
        "all as they were written"
    )
    if options.against is not None:
        print("\n".join(compared(verdict.sums, options.against)))
    if options.into is not None:
        print(f"unpacked to {unpack(path, options.into)}")
    return 0


def compared(sums: Mapping[str, str], results: Path) -> list[str]:
    """Say which files of artefacts are the same, bit by bit, in a folder of results that somebody made again.

    Manifests, logs and reports are left out: they hold dates, and would never be.
    """
    own = _of_artefacts(verify_folder(results).sums)
    studies = {name.split("/")[0] for name in own}
    wanted = {
        name: checksum for name, checksum in _of_artefacts(sums).items() if name.split("/")[0] in studies
    }
    if not wanted:
        raise ArtifactError(f"{results}: no study in common; name the folder of all results with --against")
    differ = sorted(name for name, checksum in wanted.items() if name in own and own[name] != checksum)
    missing = sorted(wanted.keys() - own.keys())
    same = len(wanted) - len(differ) - len(missing)
    return [
        f"against {results}: {same} of {len(wanted)} files of artefacts are the same bit by bit",
        *(f"differs: {name}" for name in differ),
        *(f"missing: {name}" for name in missing),
    ]


def _of_artefacts(sums: Mapping[str, str]) -> dict[str, str]:
    """The files of artefacts by study and name, among those of a checkout or of a folder of results."""
    names = {PurePosixPath(name.removeprefix("results/")): checksum for name, checksum in sums.items()}
    artefacts = {name.parent for name in names if name.name == MANIFEST}
    return {
        str(name): checksum
        for name, checksum in names.items()
        if not artefacts.isdisjoint(name.parents)
        and name.name != MANIFEST
        and len(name.parts) > 2
        and name.parts[1] not in DATED
    }
