"""Lists of checksums as `sha256sum -c` reads them, and checks of folders and tar archives against them.

Nothing is unpacked for the check. Names that lead out of the archive's one folder, links that do, names behind a link
and devices are refused before anything is written.
"""

import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline.artifacts.disk import sha256_of
from pipeline.errors import ArtifactError

LIST = "manifest-sha256.txt"
MANIFEST = "manifest.json"
# Errors that the readers of tar, gzip and xz raise at missing or wrong bytes.
UNREADABLE = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class VerifiedFiles:
    """The files that were checked, their checksums by name below the folder, and a line for each that was altered."""

    n_files: int
    n_bytes: int
    n_artefacts: int
    problems: tuple[str, ...]
    sums: Mapping[str, str] = field(default_factory=dict)


def is_safe(name: str) -> bool:
    """Return whether a name in an archive or in a list stays below its folder."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def write_list(sums: Mapping[str, str]) -> str:
    """A list of names and checksums; ArtifactError for a line break in a name, for which the format has no place."""
    for name in sums:
        if "\n" in name or "\r" in name:
            raise ArtifactError(f"{name!r}: a line break in a file's name; rename it")
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def read_list(text: str, where: str) -> dict[str, str]:
    """Names and checksums of a list; ArtifactError if a line is no such pair, or a name leads out of the folder."""
    sums = {}
    for line in text.splitlines():
        checksum, _, name = line.partition("  ")
        if len(checksum) != 64 or not is_safe(name):
            raise ArtifactError(
                f"{where}: not a list of checksums (line {line[:60]!r}); get the archive again"
            )
        sums[name] = checksum
    return sums


def verify_folder(folder: Path) -> VerifiedFiles:
    """Check every artefact below a folder, and all files if it has a list of checksums of its own."""
    listed = {}
    if (folder / LIST).is_file():
        listed = read_list((folder / LIST).read_text(encoding="utf-8"), str(folder / LIST))
    manifests = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob(MANIFEST))
        if path.is_file() and not path.is_symlink()
    }
    wanted = {*listed, *manifests} | {
        str(PurePosixPath(name).parent / file)
        for name, content in manifests.items()
        for file in (_listed_by(content) or {})
        if is_safe(file)
    }
    inside = folder.resolve()
    found = {
        name: (sha256_of(path), path.stat().st_size)
        for name in sorted(wanted)
        if (path := folder / name).is_file() and path.resolve().is_relative_to(inside)
    }
    return _with_artefacts(found, manifests, _against_list(found, listed))


def verify_archive(path: Path) -> VerifiedFiles:
    """Check an archive against its own list of checksums, without unpacking it."""
    found: dict[str, tuple[str, int]] = {}
    problems: list[str] = []
    manifests: dict[str, bytes] = {}
    listed: dict[str, str] | None = None
    with opened(path) as archive:
        for member, problem in examined(archive):
            name = _inside(member.name)
            if problem:
                problems.append(problem)
            elif member.isreg():
                stream = archive.extractfile(member)
                assert isinstance(stream, io.BufferedReader)
                if name == LIST:
                    listed = read_list(stream.read().decode(errors="replace"), f"{path}: {name}")
                elif name in found:
                    problems.append(f"{name}: is in the archive twice")
                elif PurePosixPath(name).name == MANIFEST:
                    manifests[name] = stream.read()
                    found[name] = (hashlib.sha256(manifests[name]).hexdigest(), member.size)
                else:
                    found[name] = (hashlib.file_digest(stream, "sha256").hexdigest(), member.size)
    if listed is None:
        raise ArtifactError(f"{path}: no {LIST} in it; not an archive of a study")
    problems += _against_list(found, listed)
    problems += [f"{name}: not in the list of checksums" for name in sorted(found.keys() - listed.keys())]
    return _with_artefacts(found, manifests, problems)


def contents(path: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Read some files of a verified folder or archive, by their names below it, in any order."""
    if path.is_dir():
        for name in names:
            yield name, (path / name).read_bytes()
    elif names:
        with opened(path) as archive:
            for member in archive:
                name = _inside(member.name)
                if name in names and member.isreg() and (stream := archive.extractfile(member)):
                    yield name, stream.read()


@contextmanager
def opened(path: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive; ArtifactError if it is none, or turns out to be cut off or damaged while it is read."""
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(tarfile.open(path, "r:*"))
        except (OSError, *UNREADABLE) as error:
            raise ArtifactError(f"{path}: not a tar archive ({error})") from None
        try:
            yield archive
        except UNREADABLE as error:
            raise ArtifactError(f"{path}: truncated or damaged ({error}); get the archive again") from None


def examined(members: Iterable[tarfile.TarInfo]) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Yield the members of an archive in order, each with the reason not to unpack it, or an empty text."""
    top: str | None = None
    links: set[PurePosixPath] = set()
    for member in members:
        path = PurePosixPath(member.name)
        if top is None:
            top = path.parts[0] if path.parts else ""
        yield member, _refusal(member, top, links)
        if member.issym():
            links.add(path)


def _refusal(member: tarfile.TarInfo, top: str, links: Set[PurePosixPath]) -> str:
    """Return why a member may not be unpacked into the folder `top` beside these links."""
    path = PurePosixPath(member.name)
    if not is_safe(member.name):
        return f"{member.name!r}: leads out of the archive's folder"
    if path.parts[:1] != (top,):
        return f"{member.name!r}: is not in the archive's one folder {top!r}"
    if not links.isdisjoint((path, *path.parents)):
        return f"{member.name!r}: would be written through a link"
    if member.issym():
        # The target of a link in a folder, computed without looking at any disk.
        target = os.path.normpath(path.parent / member.linkname)
        if PurePosixPath(member.linkname).is_absolute() or PurePosixPath(target).parts[:1] != (top,):
            return f"{member.name!r}: a link that leads out, to {member.linkname!r}"
        return ""
    return "" if member.isreg() or member.isdir() else f"{member.name!r}: neither file nor folder"


def unpack(path: Path, folder: Path) -> Path:
    """Unpack a verified archive below an existing or new folder; return the folder that it brought.

    Raises:
        ArtifactError: If a member leads out of the folder, or the archive's own folder exists already.
    """
    with opened(path) as archive:
        members = archive.getmembers()
        for _, problem in examined(members):
            if problem:
                raise ArtifactError(f"{path}: {problem}; nothing was unpacked")
        if not members:
            raise ArtifactError(f"{path}: an empty archive")
        top = folder / PurePosixPath(members[0].name).parts[0]
        if top.exists() or top.is_symlink():
            raise ArtifactError(f"{top}: is there already; unpack elsewhere with --into")
        folder.mkdir(parents=True, exist_ok=True)
        # The filter refuses such members again, and ignores owners and unsafe permissions.
        archive.extractall(folder, members=members, filter="data")
    return top


def _inside(name: str) -> str:
    """Return a member's name below the archive's one top folder."""
    return str(PurePosixPath(*PurePosixPath(name).parts[1:]))


def _listed_by(manifest: bytes) -> dict[str, str] | None:
    """Return the checksums of the files that a manifest lists; None if it is no manifest of an artefact."""
    try:
        content = json.loads(manifest)
        if not {"kind", "schema_version"} <= content.keys():
            return None
        return {str(name): entry["sha256"] for name, entry in content["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _against_list(found: Mapping[str, tuple[str, int]], listed: Mapping[str, str]) -> list[str]:
    return [
        f"{name}: altered (its checksum differs from the list's)"
        if name in found
        else f"{name}: listed but missing"
        for name, checksum in listed.items()
        if name not in found or found[name][0] != checksum
    ]


def _with_artefacts(
    found: Mapping[str, tuple[str, int]], manifests: Mapping[str, bytes], problems: list[str]
) -> VerifiedFiles:
    """Check every artefact's files against its manifest as well."""
    reported = {problem.partition(":")[0] for problem in problems}
    n_artefacts = 0
    for manifest, content in manifests.items():
        listed = _listed_by(content)
        if listed is None:
            problems.append(f"{manifest}: not a manifest")
            continue
        n_artefacts += 1
        for file, checksum in listed.items():
            name = str(PurePosixPath(manifest).parent / file)
            if not is_safe(file):
                problems.append(f"{manifest}: lists {file!r}, which leads out of its folder")
            elif name in reported:
                continue
            elif name not in found:
                problems.append(f"{name}: listed in the manifest but missing")
            elif found[name][0] != checksum:
                problems.append(f"{name}: altered (its checksum differs from the manifest's)")
    n_bytes = sum(size for _, size in found.values())
    sums = {name: checksum for name, (checksum, _) in found.items()}
    return VerifiedFiles(len(found), n_bytes, n_artefacts, tuple(problems), sums)
