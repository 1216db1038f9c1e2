"""Command `verify`: check an archive of a study, or a folder of results, checksum by checksum.

It also compares two runs of a study: which files are equal, which differ only in wall times, and which otherwise.
"""

import csv
import io
import json
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, deserialize

from pipeline.artifacts.checksums import MANIFEST, contents, unpack, verify_archive, verify_folder
from pipeline.artifacts.history import PAST_REPORTS
from pipeline.errors import ArtifactError
from pipeline.operations.text import size
from pipeline.runtime.words import counted

MOST_LINES = 50
# Folders of a study whose artefacts hold dates, and so differ between any two runs.
DATED = frozenset({"report", PAST_REPORTS})
# Folders whose artefacts are measurements: times, choices by time, and conclusions from both.
MEASURED = frozenset({"time_layers"})


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
        f"{counted(verdict.n_artefacts, 'artefact')}, all as they were written"
    )
    if options.against is not None:
        print("\n".join(compared(path, verdict.sums, options.against)))
    if options.into is not None:
        print(f"unpacked to {unpack(path, options.into)}")
    return 0


def compared(path: Path, sums: Mapping[str, str], results: Path) -> list[str]:
    """Compare the files of verified artefacts, by their checksums, with results that somebody computed again.

    Manifests, logs and reports are left out: they hold dates, so they always differ. A number is a wall time when its
    name ends in "seconds"; this program names all wall times so. Without a common study it is an ArtifactError.
    """
    own_sums = verify_folder(results).sums
    own, wanted = _of_artefacts(own_sums), _of_artefacts(sums)
    studies = {short.split("/")[0] for short in own}
    wanted = {short: name for short, name in wanted.items() if short.split("/")[0] in studies}
    if not wanted:
        raise ArtifactError(f"{results}: no study in common; name the folder of all results with --against")
    missing = sorted(wanted.keys() - own.keys())
    changed = [short for short in wanted if short in own and own_sums[own[short]] != sums[wanted[short]]]
    measured = [short for short in changed if short.split("/")[1] in MEASURED]
    rest = {wanted[short]: short for short in changed if short not in measured}
    timed = [
        short
        for name, content in contents(path, rest.keys())
        if _same_but_times(short := rest[name], content, (results / own[short]).read_bytes())
    ]
    differ = sorted(set(changed) - {*measured, *timed})
    same = len(wanted) - len(changed) - len(missing)
    counts = [
        f"{same} of {len(wanted)} files of artefacts are the same bit by bit",
        *([f"{len(timed)} differ in wall times alone"] if timed else []),
        *([f"{len(measured)} are measurements, which differ"] if measured else []),
        *([f"{len(differ)} differ"] if differ else []),
        *([f"{len(missing)} are missing"] if missing else []),
    ]
    return [
        f"against {results}: {', '.join(counts)}",
        *(f"differs: {short}" for short in differ),
        *(f"missing: {short}" for short in missing),
    ]


def _of_artefacts(sums: Mapping[str, str]) -> dict[str, str]:
    """Return artefacts' files by study and name, with their names in a checkout, an archive or a folder of results."""
    paths = {PurePosixPath(name.removeprefix("results/")): name for name in sums}
    artefacts = {path.parent for path in paths if path.name == MANIFEST}
    return {
        str(path): name
        for path, name in paths.items()
        if not artefacts.isdisjoint(path.parents)
        and path.name != MANIFEST
        and len(path.parts) > 2
        and path.parts[1] not in DATED
    }


def _same_but_times(name: str, one: bytes, other: bytes) -> bool:
    """Return whether two versions of a file differ only in wall times."""
    without = WITHOUT_TIMES.get(PurePosixPath(name).suffix)
    try:
        return without is not None and without(one) == without(other)
    except (ValueError, KeyError, TypeError, SafetensorError):
        return False


def _is_time(name: str) -> bool:
    return name.endswith("seconds")


def _json(content: bytes) -> Any:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(entry) for key, entry in value.items() if not _is_time(key)}
        return [strip(entry) for entry in value] if isinstance(value, list) else value

    return strip(json.loads(content))


def _csv(content: bytes) -> Any:
    rows = csv.DictReader(io.StringIO(content.decode()))
    return [{key: value for key, value in row.items() if not _is_time(str(key))} for row in rows]


def _safetensors(content: bytes) -> Any:
    # Names, types, shapes and numbers; no artefact has metadata beside its tensors.
    found = deserialize(content)  # type: ignore[no-untyped-call]  # ships without types
    return {name: tensor for name, tensor in found if not _is_time(name)}


WITHOUT_TIMES = {".json": _json, ".csv": _csv, ".safetensors": _safetensors}
