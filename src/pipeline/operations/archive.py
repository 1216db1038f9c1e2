"""Command `archive`: pack a study with its results, its code and its provenance into one tar file.

The archive holds a checkout of its own: code, configuration, results, a list of checksums that `sha256sum -c` reads,
and an RO-Crate description. Others can unpack it, check it, and run it again.
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.artifacts.checksums import LIST, MANIFEST, verify_archive, write_list
from pipeline.artifacts.disk import sha256_of
from pipeline.artifacts.history import PAST_REPORTS, manifests_of, snapshot_of
from pipeline.artifacts.lock import holder
from pipeline.config.specs import artefacts_of, specs
from pipeline.errors import ArtifactError
from pipeline.operations.crate import CRATE, describe
from pipeline.operations.outline import studies_beside
from pipeline.operations.studies import CONFIG, RESULTS, StudyFile, read_study
from pipeline.operations.text import size
from pipeline.runtime.provenance import CODE, git, provenance

# Parts of a checkout that is not under version control, such as an unpacked archive.
PARTS = (
    ".ci", ".dockerignore", ".gitignore", ".pre-commit-config.yaml", ".snakemake-workflow-catalog.yml", "CHANGELOG.md",
    "CITATION.cff", "CMakeLists.txt", "CONTRIBUTING.md", "Dockerfile", "LICENSE", "Makefile", "README.md",
    "SECURITY.md", "Snakefile", "THIRD_PARTY_NOTICES.txt", "benchmarks", "cluster", "config", "constraints.txt", "docs",
    "examples", "parsimony.def", "profiles", "pyproject.toml", "src", "tests", "workflow",
)  # fmt: skip
# Missing files that an error names.
MOST_NAMED = 5


def run(options: Namespace) -> None:
    """Pack a study whose artefacts are complete and unaltered, while no other process makes new ones."""
    study = read_study(options.study)
    if main := holder(Path.cwd()):
        raise ArtifactError(f"{Path.cwd()}: in use by {main}; pack the study when it has ended")
    beside = studies_beside(study.study.beside, CONFIG / "default.yaml")
    parts = {study.name: specs(study.study), **{name: other.specs for name, other in beside.items()}}
    manifests = [path for name in parts for path in manifests_of(RESULTS / name)]
    missing = [
        artefact if name == study.name else f"{name}/{artefact}"
        for name, of_one in parts.items()
        for artefact in [*artefacts_of(of_one["report"]), "report"]
        if RESULTS / name / artefact / MANIFEST not in manifests
    ]
    if missing:
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        raise ArtifactError(
            f"{study.folder}: the study is not complete, without {', '.join(missing[:MOST_NAMED])}{more}; "
            f"run it first: {study.command}"
        )
    made = provenance()
    commit = made.short_commit or "uncommitted"
    output = options.output or Path("archives") / f"{study.name}-{commit}.tar.gz"
    top = f"{study.name}-{commit}"
    results = [file for name in parts for file in result_files(name)]
    files = {path.as_posix(): path for path in sorted({*code_files(), *results})}
    config = study.path.as_posix() if study.path.as_posix() in files else f"config/{study.path.name}"
    # A study beside this one is packed under the path that the packed file names.
    beside_files = [Path(file) for file in study.study.beside.values() if not Path(file).is_absolute()]
    files |= {config: study.path, **{file.as_posix(): file for file in beside_files}}
    sums = {name: sha256_of(file) for name, file in files.items() if not file.is_symlink()}
    configs = [config, *(file.as_posix() for file in beside_files)]
    description = describe(study, configs, manifests, files, sums, made)
    crate = json.dumps(description, indent=1) + "\n"
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_name(f".{output.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        _pack(draft, top, files, sums, crate)
        verdict = verify_archive(draft)
        if verdict.problems:
            raise ArtifactError(_what_to_do(verdict.problems, study))
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
    dirty = "; the checkout has changes that were not committed, and they are in it" if made.dirty else ""
    print(
        f"{output}: {verdict.n_files} files, {verdict.n_artefacts} artefacts, {size(output.stat().st_size)}{dirty}"
    )


def _what_to_do(problems: Sequence[str], study: StudyFile) -> str:
    """Return the first problem with its remedy; Snakemake compares only dates, and so misses an altered result."""
    name = Path(problems[0].partition(":")[0])
    damaged = next((folder / MANIFEST for folder in name.parents if (folder / MANIFEST).is_file()), None)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if damaged is None:
        return f"{problems[0]}{more}; it changed while it was packed, so pack the study again"
    return f"{problems[0]}{more}; delete {damaged}, then {study.command}"


def code_files() -> list[Path]:
    """Return the files of the checkout as they are now; links stay links."""
    here = Path.cwd()
    tracked = (git("ls-files", "-z", folder=here, patience=60) or "").split("\0")
    if "Snakefile" in tracked:  # this folder is the top of a repository
        new = (
            git("ls-files", "-z", "--others", "--exclude-standard", "--", *CODE, folder=here, patience=60)
            or ""
        )
        found = {Path(name) for name in [*tracked, *new.split("\0")] if name}
    else:
        tops = [Path(name) for name in PARTS]
        below = (path for top in tops if top.is_dir() and not top.is_symlink() for path in top.rglob("*"))
        found = {path for path in [*tops, *below] if "__pycache__" not in path.parts}
    return sorted(
        path for path in found if path.is_symlink() or (path.is_file() and path.suffix not in (".so", ".pyc"))
    )


def result_files(study: str) -> list[Path]:
    """All result files of the study of this name, without its past reports and with the snapshot of its history."""
    folder = RESULTS / study
    found = [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and PAST_REPORTS not in path.relative_to(folder).parts[:1]
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    snapshot = snapshot_of(RESULTS, study)
    return [*found, *([snapshot] if snapshot.is_file() else [])]


def _pack(path: Path, top: str, files: Mapping[str, Path], sums: Mapping[str, str], crate: str) -> None:
    """Write the archive: the list of checksums first, then all else in order of names."""
    sums = {**sums, CRATE: hashlib.sha256(crate.encode()).hexdigest()}
    now = int(time.time())
    with (
        path.open("xb") as raw,  # never through a link
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=3, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, text in {LIST: write_list(sums), CRATE: crate}.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            content = text.encode()
            member.size, member.mtime, member.mode = len(content), now, 0o644
            archive.addfile(member, io.BytesIO(content))
        for name, file in files.items():
            archive.add(file, f"{top}/{name}", recursive=False, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Remove a member's owner; its date stays, so that Snakemake sees results newer than specs."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
