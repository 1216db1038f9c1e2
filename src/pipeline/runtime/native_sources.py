"""The digest of a native module's sources. CMake compiles it into the module; a job compares it with that on disk.

CMake runs this file as a program, without the package around it, so it imports only the standard library.
"""

import hashlib
import re
import sys
from pathlib import Path

SUFFIXES = frozenset({".cpp", ".hpp", ".inl", ".inc", ".txt"})
#: The text before the digest in a built module, by which it is found without loading the module.
MARK = "parsimony-sources:"


def digest_of_sources(folder: Path) -> str:
    """Digest the sources in a module's folder `native` and the checkout's CMakeLists.txt, as 16 hexadecimal digits."""
    files = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.suffix in SUFFIXES and path.is_file()
    }
    common = folder.resolve().parents[3] / "CMakeLists.txt"
    if common.is_file():  # an installed wheel has none
        files["../CMakeLists.txt"] = common
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes()
        digest.update(f"{name}:{len(content)}:".encode() + content)
    return digest.hexdigest()[:16]


def digest_in(library: Path) -> str:
    """Return the digest in a built module; empty if the module is older than these digests."""
    found = re.search(MARK.encode() + rb"([0-9a-f]{16})", library.read_bytes())
    return found.group(1).decode() if found else ""


def write_source(folder: Path, path: Path) -> None:
    """Write the C++ source with the digest, unless the file already has that content."""
    text = f'const char* parsimony_sources() {{ return "{MARK}{digest_of_sources(folder)}"; }}\n'
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


if __name__ == "__main__":
    write_source(Path(sys.argv[1]), Path(sys.argv[2]))
