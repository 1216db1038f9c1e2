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

#: Where what is known of them is kept.
KNOWN = Path(".snakemake", "digests")
#: What looks at the files. A study is looked at anew where its code has changed.
LOOKING = "pipeline.operations.own_inputs"
#: Keys of a study whose texts may name a file or a folder.
KEYS = frozenset({"directory", "path", "right_hand_side", "vectors", "inputs", "labels"})

#: The first parts of paths of specs that name files which are looked at before anything runs.
LOOKED_AT = frozenset({"dataset", "points", "networks", "solve"})
#: The first parts of paths of specs of a matrix, which are looked at together.
OF_A_MATRIX = ("points", "compress", "solve")


def digest_of_named_files(section: Mapping[str, Any], cache: Path) -> str:
    """Digest the contents of the files and folders that a section of a study names, a line for each.

    A text that names nothing on this disk counts as it stands: it may be a function's name, and a file that appears
    later changes the digest. What is known of the files is kept in `cache`.

    Raises:
        ConfigError: If a file can't be read.
    """
    lines = []
    for key, name in sorted(set(_names_in(section))):
        try:
            lines.append(f"{key} {name}: {digest_of_files(Path(name), cache)}")
        except OSError as error:
            raise ConfigError(
                f"{key}: {error.filename or name}: {error.strerror}; mend its permissions"
            ) from None
    return "\n".join(lines)


def require_readable_once(specs: Mapping[str, Mapping[str, Any]], cache: Path) -> None:
    """Read a study's own files as its stages will, unless the same code found these contents right before.

    Raises:
        ConfigError: If a file is wrong; the message names the section of the study, the file, and the first mistake.
    """
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
    # Not at the top of this file: Snakemake's processes would import every core to learn a digest.
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
