"""Files outside of the results that a study names: rules depend on their contents."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts.file_digests import digest_of_files
from pipeline.errors import ConfigError

#: Keys of a study whose texts may name a file or a folder.
KEYS = frozenset({"directory", "path", "right_hand_side", "vectors", "inputs", "labels"})


def digest_of_named_files(section: Mapping[str, Any], cache: Path) -> str:
    """Digest the contents of the files and folders that a section of a study names.

    A text that names nothing on this disk counts as it stands: it may be a function's name, and a file that appears
    later changes the digest.

    Args:
        section: The section as its rule's spec has it.
        cache: The folder that keeps what is known of the files.

    Returns:
        A line for each name; nothing for a section that names none.

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


def _names_in(value: Any) -> Iterator[tuple[str, str]]:
    """The texts under the keys that may name files, wherever they are."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if key in KEYS and isinstance(entry, str) and entry:
                yield key, entry
            else:
                yield from _names_in(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _names_in(entry)
