"""Reading a study file over the default."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config.messages import mistakes
from pipeline.config.study import Study
from pipeline.config.yaml_files import read_yaml, refuse_manifest
from pipeline.errors import ConfigError

# Collections whose entries a study names itself: a study file replaces the default's entries instead of adding to them.
NAMED_COLLECTIONS = ("training.runs", "matrices")
# Other keys that a study does not take from the default.
OWN_KEYS = ("training.claims", "precision.runs", "precision.networks", "scaling", "description", "beside")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one tree of sections over another, key by key; a mapping with another `name` replaces its whole section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            name = below.get("name")
            value = merge(below, value) if value.get("name", name) == name else value
        merged[key] = value
    return merged


def load_study(config: Mapping[str, Any], default: Path) -> Study:
    """Validate `default.yaml` with what Snakemake read laid over it: a study file and `--config` values, or nothing.

    A configuration that names its `study`, as every file does, has its own runs and matrices in place of the default's.
    Any other one changes the default study. A ConfigError begins with the full path of the first wrong value.
    """
    base = read_yaml(default)
    hint = "" if "study" in config else _nearly_named(config, base)
    if "study" in config:
        for path in (*NAMED_COLLECTIONS, *OWN_KEYS):
            *above, key = path.split(".")
            _at(base, above).pop(key, None)
    try:
        return validate(merge(base, config))
    except ConfigError as error:
        raise ConfigError(f"{hint}{error}") from None


def _nearly_named(config: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Find a new entry whose name nearly equals an existing one, to explain a change that fails."""
    for path in NAMED_COLLECTIONS:
        changed, there = (_at(tree, path.split(".")) for tree in (config, base))
        for name in changed.keys() - there.keys():
            if near := difflib.get_close_matches(str(name), there, n=1, cutoff=0.8):
                return f"{path}: '{name}' is new; did you mean '{near[0]}'? If not: "
    return ""


def _at(tree: Any, path: Sequence[str]) -> dict[Any, Any]:
    """Return the mapping at a path, or an empty one if there is none."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, dict) else {}


def validate(config: Mapping[str, Any]) -> Study:
    """Turn a tree of values into a study, or say in one line what is wrong with it."""
    refuse_manifest(config)
    try:
        return Study.model_validate(config)
    except ValidationError as error:
        raise ConfigError(mistakes(error, config)) from None
