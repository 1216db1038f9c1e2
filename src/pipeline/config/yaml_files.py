"""Reading YAML files, without knowledge of studies."""

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError


def read_study_file(path: Path) -> dict[str, Any]:
    """Read a study's YAML file; it has to name the study, or its results would mix with the default's."""
    data = read_yaml(path)
    refuse_manifest(data)
    if "study" not in data:
        raise ConfigError(
            f"{path}: names no study; add a line such as 'study: {path.stem}', which names the folder of its results"
        )
    return data


def refuse_manifest(config: Mapping[str, Any]) -> None:
    """Raise ConfigError if a configuration is the manifest of an artefact."""
    if {"kind", "schema_version"} <= config.keys():
        raise ConfigError(
            "a manifest was given as a configuration: --configfile takes all words that follow it; "
            "put targets before it"
        )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, and refuse keys that are written twice: YAML would take the last."""
    try:
        text = path.read_text(encoding="utf-8")
        data, twice = copy.deepcopy(_parsed(text))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; name a study's YAML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file; name a study's YAML file") from None
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        what += "; indent by blanks, not by tabs" if "'\\t'" in what else ""
        raise ConfigError(f"{path}: not a readable YAML file ({where}{what})") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from None
    if twice is not None:
        key, first, second = twice
        raise ConfigError(f"{path}: {key} is written twice, in lines {first} and {second}; keep one of them")
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise ConfigError(f"{path}: expected a mapping of sections, such as 'study: mine', found {found}")
    return data


# The default study is read with every other study, and parsing it takes longest.
@functools.lru_cache(maxsize=8)
def _parsed(text: str) -> tuple[Any, tuple[str, int, int] | None]:
    """Return the content of a YAML text, and the result of :func:`_written_twice`."""
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        # Before the construction, which copies keys of merged mappings into other ones.
        twice = _written_twice(root)
        return None if root is None else loader.construct_document(root), twice
    finally:
        loader.dispose()


def _written_twice(root: yaml.Node | None) -> tuple[str, int, int] | None:
    """Return the path of the first key that is written twice, and both line numbers."""
    to_visit: list[tuple[str, yaml.Node | None]] = [("", root)]
    seen: set[int] = set()  # an alias may lead back to a visited node
    while to_visit:
        path, node = to_visit.pop(0)
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            to_visit += [(f"{path}{i}.", item) for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                return f"{path}{name}", lines[name], line
            lines[name] = line
            to_visit.append((f"{path}{name}.", value))
    return None
