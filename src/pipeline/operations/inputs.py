"""Files outside the results that a study names; rules depend on their contents."""

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.artifacts.disk import write_atomically
from pipeline.artifacts.file_digests import digest_of_files
from pipeline.errors import ConfigError
from pipeline.runtime.code_digest import code_digest

#: Where the digests of these files are cached.
KNOWN = Path(".snakemake", "digests")
#: The module that checks the files. A study's files are checked again after a change of its code.
LOOKING = "pipeline.operations.own_inputs"
#: Keys of a study whose texts may name a file or a folder.
KEYS = frozenset({"directory", "path", "right_hand_side", "vectors", "inputs", "labels"})

#: First parts of the paths of specs whose files are checked before anything runs.
LOOKED_AT = frozenset({"dataset", "points", "networks", "solve"})
#: First parts of the paths of a matrix's specs, which are checked together.
OF_A_MATRIX = ("points", "compress", "solve")


def digest_of_named_files(section: Mapping[str, Any], cache: Path) -> str:
    """Digest the contents of the files and folders that a section of a study names, one line for each.

    A text that names nothing on this disk counts as text, since it may be a function's name; if a file of that name
    appears later, the digest changes. Digests are cached in `cache`. A file that can't be read is a ConfigError.
    """
    lines = []
    for key, name in sorted(set(_names_in(section))):
        try:
            lines.append(f"{key} {name}: {digest_of_files(Path(name), cache)}")
        except OSError as error:
            raise ConfigError(
                f"{key}: {error.filename or name}: {error.strerror}; correct its permissions"
            ) from None
    return "\n".join(lines)


def require_readable_once(specs: Mapping[str, Mapping[str, Any]], cache: Path) -> None:
    """Read a study's own files by `require_readable`, unless the same code approved the same contents before."""
    named: dict[str, Any] = {}
    for path, spec in specs.items():
        stage, _, name = path.partition("/")
        if stage not in LOOKED_AT or path in named:
            continue
        if not (digest_of_named_files(spec, cache) or spec.get("predict") or spec.get("samples")):
            continue
        together = [f"{part}/{name}" for part in OF_A_MATRIX] if stage in OF_A_MATRIX else [path]
        for one in together:
            named[one] = [dict(specs[one]), digest_of_named_files(specs[one], cache)]
    if not named:
        return
    asked = json.dumps([code_digest(LOOKING), named], sort_keys=True)
    key = hashlib.sha256(asked.encode()).hexdigest()[:16]
    kept = cache / f"{key}.right"
    if kept.exists():
        return
    # Not at the top of this file: Snakemake's processes would import every core just to compute a digest.
    importlib.import_module(LOOKING).require_readable({path: specs[path] for path in named})
    with suppress(OSError):
        write_atomically(kept, "")


def _names_in(value: Any) -> Iterator[tuple[str, str]]:
    """Yield the texts under all keys that may name files, at any depth."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if key in KEYS and isinstance(entry, str) and entry:
                yield key, entry
            else:
                yield from _names_in(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _names_in(entry)
