"""Two runs of a study compared: which files are equal, which differ only in wall times, and which differ otherwise."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, deserialize

from pipeline.artifacts.checksums import MANIFEST, contents, verify_folder
from pipeline.artifacts.history import PAST_REPORTS
from pipeline.errors import ArtifactError

# Folders of a study whose artefacts hold dates, and so differ between any two runs.
DATED = frozenset({"report", PAST_REPORTS})
# Folders whose artefacts are measurements: times, choices by time, and conclusions from both.
MEASURED = frozenset({"time_layers"})


def compared(path: Path, sums: Mapping[str, str], results: Path) -> list[str]:
    """Compare the files of verified artefacts, by their checksums, with results that somebody computed again.

    Manifests, logs and reports are left out: they hold dates, so they always differ. A number is a wall time when its
    name ends in "seconds"; this program names all wall times so.

    Raises:
        ArtifactError: If the two have no study in common.
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
