"""Checks that the installation matches the sources on disk: native modules, and the files of all other modules."""

import sys
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.runtime.native_sources import MARK, digest_in, digest_of_sources

ROOT = Path(__file__).resolve().parents[2]


def check_built(root: Path = ROOT) -> None:
    """Raise ConfigError if a module was built from other sources, or an installed file of another module is gone."""
    folders = _folders(root)
    # An editable installation lists its modules; the file of one may have been moved or deleted.
    for finder in sys.meta_path if folders else []:
        for module, file in getattr(finder, "known_source_files", {}).items():
            if module.split(".")[0] == "pipeline" and not Path(file).is_file():
                raise ConfigError(f"{module}: was installed from {file}, which is gone; run: make env")
    for folder in folders:
        library = library_of(folder)
        _compare(folder, digest_in(library) if library else None)


def _folders(root: Path) -> list[Path]:
    """Folders with native sources in a checkout; an installed wheel has none to compare with its modules."""
    return sorted(root.glob("pipeline/*/native")) if (root.parent / "CMakeLists.txt").is_file() else []


def check_loaded(root: Path = ROOT) -> None:
    """Raise ConfigError if a module that this process has loaded was built from other sources."""
    for folder in _folders(root):
        module = sys.modules.get(_name(folder))
        if module is not None:
            _compare(folder, getattr(module, "SOURCES", "").removeprefix(MARK))


def library_of(folder: Path) -> Path | None:
    """Find the file of a built module as an import would, but without importing the package around it."""
    for finder in sys.meta_path:
        found = finder.find_spec(_name(folder), [str(folder.parent)])
        if found is not None and found.origin is not None:
            return Path(found.origin)
    return None


def _name(folder: Path) -> str:
    return f"pipeline.{folder.parent.name}._native"


def _compare(folder: Path, built: str | None) -> None:
    if built is None:
        raise ConfigError(f"{_name(folder)}: is not built; run: make env")
    if built != digest_of_sources(folder):
        raise ConfigError(
            f"{_name(folder)}: was built from other sources than those in {folder}; run: make env"
        )


def main() -> int:
    """Return 0 if no build is needed; else print a line that names the module and return 1."""
    try:
        check_built()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
