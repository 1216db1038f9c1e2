import os
import time

import pytest

from pipeline.artifacts import file_digests
from pipeline.artifacts.file_digests import ABSENT, digest_of_files

OLD = time.time() - 3600


@pytest.fixture
def images(tmp_path):
    """A folder with some images, written a while ago, and one with a name that is no text."""
    folder = tmp_path / "my images"
    for name in (b"train/cat/1.png", b"train/cat/2.png", b"test/dog/3.png", b"test/dog/\xff.png"):
        path = os.fsencode(folder) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(name)
        os.utime(path, (OLD, OLD))
    return folder


@pytest.fixture
def read(monkeypatch):
    """The names of the files that were read."""
    names, real = [], file_digests.sha256_of
    monkeypatch.setattr(file_digests, "sha256_of", lambda path: names.append(path.name) or real(path))
    return names


def test_only_what_changed_is_read_again(images, tmp_path, read):
    first = digest_of_files(images, tmp_path / "cache")
    assert first.startswith("4 files, ")
    assert len(read) == 4
    read.clear()
    assert digest_of_files(images, tmp_path / "cache") == first
    assert read == []
    (images / "train/cat/1.png").touch()
    assert digest_of_files(images, tmp_path / "cache") == first
    assert read == ["1.png"]


def add(folder):
    (folder / "train/cat/4.png").write_text("4")


def delete(folder):
    (folder / "train/cat/1.png").unlink()


def alter(folder):
    (folder / "train/cat/1.png").write_bytes(b"TRAIN/cat/1.png")


def rename(folder):
    (folder / "train/cat/1.png").rename(folder / "train/cat/0.png")


@pytest.mark.parametrize("change", [add, delete, alter, rename])
def test_every_change_of_names_or_contents_counts(images, tmp_path, change):
    before = digest_of_files(images, tmp_path / "cache")
    change(images)
    assert digest_of_files(images, tmp_path / "cache") != before


def test_a_change_in_the_same_tick_of_the_clock_counts(images, tmp_path, monkeypatch):
    monkeypatch.setattr(file_digests, "TICK", 3600.0)  # however long the machine stands still meanwhile
    path = images / "train/cat/1.png"
    path.write_bytes(b"one")
    status = path.stat()
    before = digest_of_files(images, tmp_path / "cache")
    with path.open("r+b") as file:
        file.write(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest_of_files(images, tmp_path / "cache") != before


def test_one_file_has_a_digest_too_and_none_has_a_word(tmp_path):
    path = tmp_path / "stations.csv"
    assert digest_of_files(path, tmp_path / "cache") == ABSENT
    path.write_text("lon,lat\n")
    before = digest_of_files(path, tmp_path / "cache")
    assert before.startswith("1 file, ")
    path.write_text("lon,lat\n1,2\n")
    assert digest_of_files(path, tmp_path / "cache") != before


def test_links_are_followed_and_circles_end(images, tmp_path):
    (tmp_path / "linked").symlink_to(images)
    assert digest_of_files(tmp_path / "linked", tmp_path / "c") == digest_of_files(images, tmp_path / "c")
    (images / "up").symlink_to(images)
    assert digest_of_files(images, tmp_path / "c").startswith("4 files, ")


@pytest.mark.parametrize("content", ["", "{"])
def test_a_damaged_cache_or_none_costs_time_alone(images, tmp_path, content):
    before = digest_of_files(images, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_text(content)
    assert digest_of_files(images, tmp_path / "cache") == before
    (tmp_path / "file").write_text("")
    assert digest_of_files(images, tmp_path / "file" / "cache") == before
