"""Reading a study file over the default, and saying in one line what is wrong with it."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

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
        config: What Snakemake read: a study file and `--config` values, or nothing. One that names its `study`
            brings its own runs and matrices, in place of the default's; one that doesn't changes the default study.
        default: Path of `default.yaml`.

    Raises:
        ConfigError: With the full path of the first value that is wrong.
    """
    base = read_yaml(default)
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
    return validate(merge(base, config))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping."""
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(data).__name__}")
    return data


def validate(config: Mapping[str, Any]) -> Study:
    """Turn a tree of values into a study, or say in one line what is wrong with it."""
    if {"kind", "schema_version"} <= config.keys():
        raise ConfigError(
            "a manifest was given as a configuration: --configfile takes all words that follow it; "
            "put targets before it"
        )
    try:
        return Study.model_validate(config)
    except ValidationError as error:
        lines = [_describe(problem, config) for problem in error.errors()]
        more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
        raise ConfigError("; also ".join(lines[:3]) + more) from None


def _describe(problem: Any, config: Mapping[str, Any]) -> str:
    """One line for one pydantic error: path, what was wanted, what was found."""
    path, here = [], config
    for step in problem["loc"]:
        # pydantic puts the tag of a tagged union into the location; the user's file has no such step.
        if isinstance(here, Mapping) and here.get("name") == step and step not in here:
            continue
        path.append(str(step))
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            here = {}
    context = problem.get("ctx", {})
    if problem["type"] == "unknown_key":
        path.append(context["key"])
    prefix = ".".join(path) + ": " if path else ""
    if problem["type"] in ("missing", "union_tag_not_found"):
        what = "its method" if path[-1] == "optimizer" else "it"
        return f"{prefix}missing; name {what} (see config/default.yaml for the choices)"
    if problem["type"] == "union_tag_invalid":
        known = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        near = difflib.get_close_matches(context["tag"], known, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"{prefix}unknown name '{context['tag']}'; {hint}known: {', '.join(known)}"
    own_text = problem["type"] in ("unknown_key", "run", "task", "fit")
    return f"{prefix}{problem['msg']}" + ("" if own_text else f", found {problem['input']!r}"[:80])
