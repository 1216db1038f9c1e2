import errno
import json
import os
import socket

import numpy as np
import pytest
import torch

from pipeline.artifacts import disk, store
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.store import Artifact, create
from pipeline.errors import ArtifactError


@pytest.fixture
def manifest(tmp_path):
    return tmp_path / "thing" / "manifest.json"


def write(manifest, value=1.0):
    with create(manifest, kind="thing", spec={"a": 1}, provenance=Provenance(host="here")) as draft:
        draft.save_array("x", np.full(3, value), unit="m")
        draft.save_tensors("w", {"t": torch.ones(2, dtype=torch.float16)})
        draft.save_table("t", [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
        draft.save_json("j", {"k": [1, 2]})
        folder = draft.path("nested")
        folder.mkdir(exist_ok=True)
        (folder / "f.txt").write_text("deep")
        draft.facts["answer"] = 42


def test_what_was_written_is_read_back(manifest):
    write(manifest)
    thing = Artifact.open(manifest, "thing")
    np.testing.assert_array_equal(thing.array("x"), np.ones(3))
    assert thing.tensors("w")["t"].dtype == torch.float16
    assert thing.table("t")[1] == {"epoch": "2", "loss": "0.25"}
    assert thing.json("j") == {"k": [1, 2]}
    assert thing.facts["answer"] == 42
    assert thing.spec == {"a": 1}
    assert thing.manifest["arrays"]["x"] == {"shape": [3], "dtype": "float64", "unit": "m"}
    assert "nested/f.txt" in thing.manifest["files"]


@pytest.mark.parametrize("name", ["x.npy", "w.safetensors", "t.csv", "j.json", "nested/f.txt"])
def test_an_altered_or_lost_file_is_refused_by_name(manifest, name, monkeypatch):
    monkeypatch.setattr(disk, "SECONDS_TO_APPEAR", 0.01)
    write(manifest)
    file = manifest.parent / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=f"{name}: altered"):
        Artifact.open(manifest, "thing")
    file.write_bytes(bytes(content) + b" ")
    with pytest.raises(ArtifactError, match=rf"{name}: altered .*\(size differs .*, 0 s later too\)"):
        Artifact.open(manifest, "thing")
    file.unlink()
    with pytest.raises(ArtifactError, match=f"{name}: listed in the manifest but missing, 0 s later too"):
        Artifact.open(manifest, "thing")


@pytest.mark.parametrize("read", ["array", "tensors", "table", "json"])
def test_a_file_that_no_version_of_this_artefact_wrote_is_refused_by_name(manifest, read):
    write(manifest)
    with pytest.raises(ArtifactError, match=r"y\.\w+: not listed in the manifest.*delete the manifest"):
        getattr(Artifact.open(manifest, "thing"), read)("y")


def test_a_file_that_appears_after_its_manifest_is_waited_for(manifest, monkeypatch):
    write(manifest)
    file = manifest.parent / "x.npy"
    whole = file.read_bytes()
    file.unlink()
    shown = [whole[:10], whole]  # a part of it first
    monkeypatch.setattr(disk.Patience, "pause", lambda _self: file.write_bytes(shown.pop(0)))
    np.testing.assert_array_equal(Artifact.open(manifest, "thing").array("x"), np.ones(3))


def test_where_another_process_computes_checksums_only_sizes_count(manifest, monkeypatch):
    write(manifest)
    monkeypatch.setattr(store, "sha256_of", lambda _path: pytest.fail("computed once more"))
    np.testing.assert_array_equal(Artifact.open(manifest, "thing", contents=False).array("x"), np.ones(3))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"kind": 1}'])
def test_a_broken_manifest_is_refused(manifest, text):
    manifest.parent.mkdir()
    manifest.write_text(text)
    with pytest.raises(ArtifactError, match="not a manifest"):
        Artifact.open(manifest, "thing")


def test_missing_kind_and_version_are_refused(manifest):
    with pytest.raises(ArtifactError, match="no such artefact"):
        Artifact.open(manifest, "thing")
    write(manifest)
    with pytest.raises(ArtifactError, match="expected a manifest of kind 'other', found 'thing'"):
        Artifact.open(manifest, "other")
    content = json.loads(manifest.read_text()) | {"schema_version": 0}
    manifest.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="schema version 0"):
        Artifact.open(manifest, "thing")


def full_disk(*_arguments, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def short_write(*_arguments, **_options):
    raise OSError("24 requested and 8 written")


@pytest.mark.parametrize("failure", [full_disk, short_write])
def test_a_full_disk_leaves_no_manifest_and_one_line(manifest, monkeypatch, failure):
    write(manifest)
    monkeypatch.setattr(np, "save", failure)
    with pytest.raises(ArtifactError, match="the disk is full"):
        write(manifest, 2.0)
    assert not manifest.exists()


def test_a_disk_that_fills_up_under_the_manifest_leaves_none(manifest, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ArtifactError, match="the disk is full"):
        write(manifest)
    assert not manifest.exists()
    assert not list(manifest.parent.glob(".manifest*"))


def test_a_failure_of_the_caller_keeps_its_type_and_leaves_no_manifest(manifest):
    def fail():
        with create(manifest, kind="thing", spec={}, provenance=Provenance()):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not manifest.exists()


def test_a_file_in_the_way_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "thing").write_text("")
    with (
        pytest.raises(ArtifactError, match=r"thing: no folder can be made there .*name another"),
        create(tmp_path / "thing" / "manifest.json", kind="k", spec={}, provenance=Provenance()),
    ):
        pass


def test_writing_atomically_replaces_the_whole_file(tmp_path):
    path = tmp_path / "f"
    store.write_atomically(path, "long first text")
    store.write_atomically(path, "second")
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_files_have_the_users_permissions(manifest):
    former = os.umask(0o027)
    try:
        write(manifest)
    finally:
        os.umask(former)
    modes = {path.name: path.stat().st_mode & 0o777 for path in manifest.parent.rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o640}, modes


def test_links_in_the_way_are_replaced_and_never_followed(manifest, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    manifest.parent.mkdir()
    for name in ("x.npy", "w.safetensors", "t.csv", "j.json", "manifest.json"):
        (manifest.parent / name).symlink_to(victim)
    temporary = f".manifest.json.{socket.gethostname()}.{os.getpid()}"
    (manifest.parent / temporary).symlink_to(victim)
    write(manifest)
    assert victim.read_text() == "precious"
    assert Artifact.open(manifest, "thing").facts["answer"] == 42
    assert not any(path.is_symlink() for path in manifest.parent.rglob("*"))


def test_what_is_no_manifest_is_not_to_be_deleted_on_our_word(tmp_path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    with pytest.raises(ArtifactError, match=r"not a manifest; name the manifest.json of an artefact"):
        Artifact.open(picture, "thing")
