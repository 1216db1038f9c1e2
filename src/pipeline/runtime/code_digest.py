"""A digest of the code behind a stage, so that Snakemake re-runs the stage when the meaning of its code changes.

Snakemake does not look into an installed package, so results would become outdated unnoticed. The digest covers the
abstract syntax of a module and of all modules of this package that it imports, directly or not; they are found without
importing anything. It also covers the native sources and templates beside them, but no comments, docstrings or layout.

Parsing the whole package takes seconds, and every job and every plan would do so. Results for a file are cached beside
its bytecode, under a digest of the file's content: only changed files are parsed again.
"""

import ast
import functools
import hashlib
import json
import os
import sys
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path

from pipeline.runtime.native_sources import digest_of_sources

PACKAGE = "pipeline"
TEMPLATES = frozenset({".html", ".css", ".js"})
ROOT = Path(__file__).resolve().parents[2]
OWN_SOURCE = Path(__file__).read_bytes()


@functools.cache
def _file_of(module: str, root: Path) -> Path | None:
    # Called for thousands of names; a path object for each would be slow.
    path = os.path.join(root, *module.split("."))
    candidates = (f"{path}.py", os.path.join(path, "__init__.py"))
    return next((Path(file) for file in candidates if os.path.isfile(file)), None)


@functools.cache
def _read(module: str, root: Path) -> tuple[frozenset[str], bytes]:
    """The modules of the package that a module imports, and a digest of its syntax tree without docstrings."""
    file = _file_of(module, root)
    assert file is not None
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names, meaning = _found_in(file, package)
    return frozenset(name for name in names if _file_of(name, root)), meaning.encode()


def _found_in(file: Path, package: str) -> tuple[list[str], str]:
    """Return what a file may import and a digest of its syntax tree, from the cache or by parsing.

    The cache is where Python keeps the file's bytecode, and exists only if Python may keep bytecode there.
    """
    source = file.read_bytes()
    # This module's own source is part of the key: if it digests differently, all files are digested again.
    key = hashlib.sha256(b"\0".join([OWN_SOURCE, package.encode(), source])).hexdigest()
    kept = Path(cache_from_source(str(file))).with_suffix(".meaning.json")
    with suppress(OSError, ValueError, TypeError, KeyError):  # there is no cached file, or only a part of one
        found = json.loads(kept.read_bytes())
        if found["key"] == key:
            return found["names"], found["meaning"]
    tree = ast.parse(source)
    names, meaning = sorted(_imports(tree, package)), hashlib.sha256(_meaning(tree)).hexdigest()
    if not sys.dont_write_bytecode:
        # Not flushed to disk: after a crash, a partial file is no valid JSON and is made again.
        temporary = kept.with_name(f"{kept.name}.{os.getpid()}")
        with suppress(OSError):
            kept.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps({"key": key, "names": names, "meaning": meaning}))
            temporary.replace(kept)
    return names, meaning


def _imports(tree: ast.Module, package: str) -> set[str]:
    """Names below the package that a module may import anywhere in its text: modules, and names defined in them."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == PACKAGE}


def _meaning(tree: ast.Module) -> bytes:
    """A module's syntax tree without its docstrings and its version, which alone changes no result."""
    tree.body = [
        node
        for node in tree.body
        if not (
            isinstance(node, ast.Assign) and [ast.unparse(one) for one in node.targets] == ["__version__"]
        )
    ]
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree).encode()


@functools.cache
def _beside(package: Path, root: Path) -> list[tuple[str, bytes]]:
    """Other files of a package that count: the digest of its native sources, and its templates."""
    folders = [path for path in package.iterdir() if path.is_dir() and not (path / "__init__.py").exists()]
    found = []
    for folder in sorted(folders):
        if any(folder.glob("*.cpp")):
            found.append((folder.relative_to(root).as_posix(), digest_of_sources(folder).encode()))
        found += [
            (file.relative_to(root).as_posix(), file.read_bytes())
            for file in sorted(folder.rglob("*"))
            if file.suffix in TEMPLATES and file.is_file()
        ]
    return found


def modules_behind(module: str, root: Path = ROOT) -> list[str]:
    """All modules of the package that a module needs, including itself and its parent packages."""
    if _file_of(module, root) is None:
        raise ValueError(f"no module {module} below {root}")
    seen: set[str] = set()
    to_visit = [module]
    while to_visit:
        name = to_visit.pop()
        if name in seen:
            continue
        seen.add(name)
        to_visit.extend(_read(name, root)[0])
        steps = name.split(".")
        to_visit.extend(".".join(steps[:i]) for i in range(1, len(steps)))
    return sorted(seen)


def code_digest(module: str, root: Path = ROOT) -> str:
    """Digest the meaning of a module and of all modules that it imports, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in modules_behind(module, root):
        file = _file_of(name, root)
        assert file is not None
        digest.update(name.encode() + _read(name, root)[1])
        if file.name == "__init__.py":
            for path, content in _beside(file.parent, root):
                digest.update(path.encode() + content)
    return digest.hexdigest()[:16]
