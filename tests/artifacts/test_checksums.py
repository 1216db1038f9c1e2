"""Archives and folders, checked without trusting a name in them."""

import hashlib
import io
import os
import tarfile

import pytest

from pipeline.artifacts.checksums import (
    LIST,
    is_safe,
    read_list,
    unpack,
    verify_archive,
    verify_folder,
    write_list,
)
from pipeline.artifacts.disk import sha256_of
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.store import create
from pipeline.errors import ArtifactError


@pytest.fixture
def folder(tmp_path):
    """An unpacked archive: an artefact, another file, and the list of both."""
    folder = tmp_path / "study"
    with create(
        folder / "results" / "a" / "manifest.json", kind="k", spec={}, provenance=Provenance()
    ) as draft:
        draft.save_text("text.txt", "hello")
    (folder / "Snakefile").write_text("rule all:\n")
    files = [path for path in folder.rglob("*") if path.is_file()]
    sums = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    (folder / LIST).write_text(write_list(sums))
    return folder


def listed(folder, name, content=b"x"):
    """Add a file to the list of checksums alone."""
    line = f"{hashlib.sha256(content).hexdigest()}  {name}\n"
    (folder / LIST).write_text((folder / LIST).read_text() + line)


def packed(folder, change=None):
    """The folder as an archive, with members added by `change`."""
    path = folder.with_suffix(".tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.add(file, f"study/{file.relative_to(folder).as_posix()}")
        if change is not None:
            change(archive)
    return path


def add(archive, name, kind=tarfile.REGTYPE, target="", content=b"x"):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    member.size = len(content) if kind == tarfile.REGTYPE else 0
    archive.addfile(member, io.BytesIO(content))


def test_what_was_written_is_verified_in_a_folder_and_in_an_archive(folder):
    for verdict in (verify_folder(folder), verify_archive(packed(folder))):
        assert verdict.problems == ()
        assert (verdict.n_files, verdict.n_artefacts) == (3, 1)


@pytest.mark.parametrize("name", ["Snakefile", "results/a/text.txt", "results/a/manifest.json"])
def test_an_altered_or_lost_file_is_named(folder, name):
    content = (folder / name).read_text()
    (folder / name).write_text(content + " ")
    for verdict in (verify_folder(folder), verify_archive(packed(folder))):
        assert len(verdict.problems) == 1
        assert verdict.problems[0].startswith(f"{name}: altered")
    (folder / name).unlink()
    for verdict in (verify_folder(folder), verify_archive(packed(folder))):
        assert f"{name}: listed but missing" in verdict.problems


def test_a_list_that_was_altered_with_its_file_still_disagrees_with_the_manifest(folder):
    file = folder / "results" / "a" / "text.txt"
    old = sha256_of(file)
    file.write_text("other")
    (folder / LIST).write_text((folder / LIST).read_text().replace(old, sha256_of(file)))
    for verdict in (verify_folder(folder), verify_archive(packed(folder))):
        assert "differs from the manifest's" in verdict.problems[0]


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("../escaped", tarfile.REGTYPE, ""),
        ("study/../../escaped", tarfile.REGTYPE, ""),
        ("/escaped", tarfile.REGTYPE, ""),
        ("study/link", tarfile.SYMTYPE, "/etc"),
        ("study/link", tarfile.SYMTYPE, "../.."),
        ("study/link", tarfile.SYMTYPE, "a/../../x"),
        ("study/hard", tarfile.LNKTYPE, "/etc/passwd"),
        ("study/device", tarfile.CHRTYPE, ""),
        ("study/pipe", tarfile.FIFOTYPE, ""),
    ],
)
def test_a_member_that_leads_out_is_refused_and_nothing_is_unpacked(folder, tmp_path, name, kind, target):
    path = packed(folder, lambda archive: add(archive, name, kind, target))
    assert verify_archive(path).problems
    with pytest.raises(ArtifactError, match="nothing was unpacked"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "escaped").exists()


def test_a_link_within_the_archive_is_kept(folder, tmp_path):
    path = packed(folder, lambda archive: add(archive, "study/cluster", tarfile.SYMTYPE, "results/a"))
    assert not verify_archive(path).problems
    top = unpack(path, tmp_path / "out")
    assert (top / "cluster" / "text.txt").read_text() == "hello"
    with pytest.raises(ArtifactError, match="is there already"):
        unpack(path, tmp_path / "out")


def test_a_file_beside_the_one_folder_is_refused_though_it_is_listed(folder, tmp_path):
    listed(folder, "x.py")
    path = packed(folder, lambda archive: add(archive, "src/x.py"))
    assert verify_archive(path).problems[0] == "'src/x.py': is not in the archive's one folder 'study'"
    precious = tmp_path / "out" / "src" / "x.py"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    with pytest.raises(ArtifactError, match="nothing was unpacked"):
        unpack(path, tmp_path / "out")
    assert precious.read_text() == "precious"
    assert not (tmp_path / "out" / "study").exists()


@pytest.mark.parametrize("name", ["study/up/victim", "study/up"])
def test_nothing_is_written_through_a_link_however_it_leads_out(folder, tmp_path, name):
    def change(archive):
        add(archive, "study/here", tarfile.SYMTYPE, ".")
        # By its letters within the folder; by the disk's, above it.
        add(archive, "study/up", tarfile.SYMTYPE, "here/.." if name.endswith("victim") else "here/../victim")
        add(archive, name)

    listed(folder, name.removeprefix("study/"))
    path = packed(folder, change)
    assert verify_archive(path).problems[0] == f"{name!r}: would be written through a link"
    victim = tmp_path / "out" / "victim"
    victim.parent.mkdir()
    victim.write_text("precious")
    with pytest.raises(ArtifactError, match="nothing was unpacked"):
        unpack(path, tmp_path / "out")
    assert victim.read_text() == "precious"


def test_only_a_manifests_own_name_makes_an_artefact_in_folder_and_archive(folder):
    other = folder / "results" / "a" / "old-manifest.json"
    other.write_text("{}")
    listed(folder, "results/a/old-manifest.json", b"{}")
    for verdict in (verify_folder(folder), verify_archive(packed(folder))):
        assert (verdict.problems, verdict.n_artefacts) == ((), 1)


def test_a_file_that_nobody_listed_or_that_comes_twice_is_a_problem(folder):
    extra = verify_archive(packed(folder, lambda archive: add(archive, "study/extra")))
    assert extra.problems == ("extra: not in the list of checksums",)
    twice = verify_archive(packed(folder, lambda archive: add(archive, "study/Snakefile")))
    assert "Snakefile: is in the archive twice" in twice.problems


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b broken"])
def test_what_is_no_archive_is_one_line(tmp_path, content):
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"not a tar archive|not an archive of a study"):
        verify_archive(tmp_path / "x.tar.gz")


def test_names_that_leave_their_folder_are_none():
    assert all(map(is_safe, ["a", "a/b", "a b", "$(x)", ".hidden"]))
    assert not any(map(is_safe, ["", "/a", "../a", "a/../../b", "a\0b"]))
    with pytest.raises(ArtifactError, match="not a list of checksums"):
        read_list(f"{'0' * 64}  ../a\n", "list")
    with pytest.raises(ArtifactError, match="line break"):
        write_list({"a\nb": "0" * 64})


@pytest.mark.parametrize("read", [verify_archive, lambda path: unpack(path, path.parent / "elsewhere")])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_an_archive_that_was_cut_off_is_named(folder, read, kept):
    path = packed(folder, lambda archive: add(archive, "study/noise", content=os.urandom(1 << 16)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ArtifactError, match=r"study\.tar\.gz: truncated or damaged"):
        read(path)
