import importlib
import shutil
import sys
from types import SimpleNamespace

import pytest

from pipeline.errors import ConfigError
from pipeline.runtime.native_build import ROOT, check_built, check_loaded, library_of
from pipeline.runtime.native_sources import MARK, digest_in, digest_of_sources, write_source

MODULES = ("precision", "hmatrix")


@pytest.fixture
def checkout(tmp_path):
    """A checkout's `src` with a native module that was built from its sources."""
    folder = tmp_path / "src" / "pipeline" / "one" / "native"
    folder.mkdir(parents=True)
    (tmp_path / "CMakeLists.txt").write_text("project(one)\n")
    (folder / "module.cpp").write_text("int one;\n")
    library = folder.parent / "_native.so"
    library.write_bytes(b"\x7fELF" + f"{MARK}{digest_of_sources(folder)}".encode() + b"\0")
    return tmp_path / "src"


class Finder:
    """Finds the library of the module `one` in a checkout, as an import hook does."""

    def __init__(self, root):
        self.root = root

    def find_spec(self, name, _path):
        library = self.root / "pipeline" / "one" / "_native.so"
        found = name == "pipeline.one._native" and library.exists()
        return SimpleNamespace(origin=str(library)) if found else None


@pytest.fixture
def found(checkout, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [Finder(checkout)])
    return checkout


@pytest.mark.parametrize("name", MODULES)
def test_a_built_module_carries_the_digest_of_the_sources_on_this_disk(name):
    folder = ROOT / "pipeline" / name / "native"
    module = importlib.import_module(f"pipeline.{name}._native")
    assert MARK + digest_of_sources(folder) == module.SOURCES
    assert digest_in(library_of(folder)) == digest_of_sources(folder)


def test_a_build_of_what_lies_on_the_disk_passes(found):
    check_built(found)


@pytest.mark.parametrize("path", ["src/pipeline/one/native/module.cpp", "CMakeLists.txt"])
def test_a_build_of_other_sources_is_refused_with_the_command_that_mends_it(found, path):
    (found.parent / path).write_text("other\n")
    with pytest.raises(
        ConfigError, match=r"pipeline\.one\._native: was built from other sources .*; run: make env"
    ):
        check_built(found)


def test_a_module_that_carries_no_digest_counts_as_built_from_other_sources(found):
    (found / "pipeline" / "one" / "_native.so").write_bytes(b"\x7fELF")
    with pytest.raises(ConfigError, match="other sources"):
        check_built(found)


def test_a_module_that_was_never_built_is_named(found):
    (found / "pipeline" / "one" / "_native.so").unlink()
    with pytest.raises(ConfigError, match=r"pipeline\.one\._native: is not built; run: make env"):
        check_built(found)


def test_an_installed_package_without_its_checkout_has_nothing_to_compare(found):
    (found.parent / "CMakeLists.txt").unlink()
    (found / "pipeline" / "one" / "_native.so").unlink()
    check_built(found)
    check_loaded(found)


def test_what_a_process_has_loaded_is_compared_and_not_what_was_built_since(checkout, monkeypatch):
    check_loaded(checkout)
    monkeypatch.setitem(sys.modules, "pipeline.one._native", SimpleNamespace(SOURCES=MARK + 16 * "0"))
    with pytest.raises(ConfigError, match="other sources"):
        check_loaded(checkout)


def test_the_source_that_carries_the_digest_is_written_once_for_the_same_sources(checkout, tmp_path):
    folder, source = checkout / "pipeline" / "one" / "native", tmp_path / "sources.cpp"
    write_source(folder, source)
    before = source.stat().st_mtime_ns, source.read_text()
    assert digest_of_sources(folder) in before[1]
    write_source(folder, source)
    assert (source.stat().st_mtime_ns, source.read_text()) == before
    (folder / "more.hpp").write_text("int two;\n")
    write_source(folder, source)
    assert source.read_text() != before[1]


def test_a_copy_elsewhere_has_the_same_digest(checkout, tmp_path):
    there = tmp_path / "with a space"
    shutil.copytree(checkout, there / "src")
    shutil.copy(checkout.parent / "CMakeLists.txt", there)
    folders = [root / "pipeline" / "one" / "native" for root in (checkout, there / "src")]
    assert digest_of_sources(folders[0]) == digest_of_sources(folders[1])


def test_a_module_whose_file_was_moved_since_the_installation_is_refused(found, monkeypatch, tmp_path):
    there, gone = tmp_path / "there.py", tmp_path / "gone.py"
    there.touch()
    finder = SimpleNamespace(
        find_spec=lambda *_: None, known_source_files={"pipeline.there": str(there), "other.gone": str(gone)}
    )
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    check_built(found)
    finder.known_source_files["pipeline.gone"] = str(gone)
    with pytest.raises(
        ConfigError, match=r"^pipeline\.gone: was installed from .*gone\.py, which is gone; run: make env$"
    ):
        check_built(found)
