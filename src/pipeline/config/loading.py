"""Reading a study file over the default."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config.messages import mistakes
from pipeline.config.study import Study
from pipeline.errors import ConfigError

# Collections whose entries a study names itself: a study file replaces them whole instead of adding to the default's.
NAMED_COLLECTIONS = (("training", "runs"), ("matrices",))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one tree of sections over another, key by key; a mapping with another `name` replaces its whole section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        same_kind = (
            isinstance(below, Mapping)
            and isinstance(value, Mapping)
            and value.get("name", below.get("name")) == below.get("name")
        )
        merged[key] = merge(below, value) if same_kind and isinstance(below, Mapping) else value
    return merged


def load_study(config: Mapping[str, Any], default: Path) -> Study:
    """Validate a study.

    Args:
        config: What Snakemake read: a study file and `--config` values, or nothing. One that names its `study`, as
            every file does, brings its own runs and matrices, in place of the default's; one that doesn't changes
            the default study.
        default: Path of `default.yaml`.

    Raises:
        ConfigError: With the full path of the first value that is wrong.
    """
    base = read_yaml(default)
    hint = "" if "study" in config else _nearly_named(config, base)
    if "study" in config:
        for path in NAMED_COLLECTIONS:
            section: Any = base
            for key in path[:-1]:
                section = section.get(key) or {}
            section.pop(path[-1], None)
        (base.get("training") or {}).pop("claims", None)
        (base.get("precision") or {}).pop("runs", None)
        base.pop("scaling", None)
        base.pop("description", None)
    try:
        return validate(merge(base, config))
    except ConfigError as error:
        raise ConfigError(f"{hint}{error}") from None


def _nearly_named(config: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Which new entry of a collection has nearly the name of one that is there, for a change that fails."""
    for path in NAMED_COLLECTIONS:
        changed, there = _at(config, path), _at(base, path)
        for name in changed.keys() - there.keys():
            if near := difflib.get_close_matches(str(name), there, n=1, cutoff=0.8):
                return f"{'.'.join(path)}: '{name}' is new; did you mean '{near[0]}'? If not: "
    return ""


def _at(tree: Any, path: tuple[str, ...]) -> Mapping[Any, Any]:
    """The mapping at a path; an empty one if there is none."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, Mapping) else {}


def read_study_file(path: Path) -> dict[str, Any]:
    """Read a study's YAML file, which has to name the study: else its results would lie among the default's."""
    data = read_yaml(path)
    _refuse_manifest(data)
    if "study" not in data:
        raise ConfigError(
            f"{path}: names no study; add a line such as 'study: {path.stem}', which names the folder of its results"
        )
    return data


def _refuse_manifest(config: Mapping[str, Any]) -> None:
    if {"kind", "schema_version"} <= config.keys():
        raise ConfigError(
            "a manifest was given as a configuration: --configfile takes all words that follow it; "
            "put targets before it"
        )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, and refuse keys that are written twice: YAML would take the last."""
    try:
        text = path.read_text(encoding="utf-8")
        twice = _written_twice(yaml.compose(text, Loader=yaml.SafeLoader))
        data = yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; name a study's YAML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file; name a study's YAML file") from None
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
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


def _written_twice(root: yaml.Node | None) -> tuple[str, int, int] | None:
    """The path of the first key that its mapping has twice, and the two lines."""
    to_visit: list[tuple[str, yaml.Node | None]] = [("", root)]
    seen: set[int] = set()  # an alias may lead back
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


def validate(config: Mapping[str, Any]) -> Study:
    """Turn a tree of values into a study, or say in one line what is wrong with it."""
    _refuse_manifest(config)
    try:
        return Study.model_validate(config)
    except ValidationError as error:
        raise ConfigError(mistakes(error, config)) from None
