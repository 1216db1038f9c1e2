"""Reading a study file over the default, and saying in one line what is wrong with it."""

import difflib
import math
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config.images import IMPORT_PATTERN
from pipeline.config.section import NAME_PATTERN, SMALLEST
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
        problems = error.errors()
        around = {
            problem["loc"][:-1] for problem in problems
        }  # a list with a wrong entry counts as too short as well
        lines = [
            _describe(problem, config)
            for problem in problems
            if problem["type"] != "too_short" or problem["loc"] not in around
        ]
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
    if problem["type"] in ("unknown_key", "truth_value"):
        path.append(context["key"])
    is_key = path[-1:] == ["[key]"]  # of a collection, whose entries the user names
    path = path[:-1] if is_key else path
    # What does not fit begins with the rest of its path.
    prefix = ".".join(path) + ("." if problem["type"] == "fit" else ": ") if path else ""
    if problem["type"] in ("missing", "union_tag_not_found"):
        if path[-1] == "optimizer":
            return f"{prefix}missing; name its method (see config/default.yaml for the choices)"
        what = "name it" if problem["type"] == "union_tag_not_found" else "give it"
        return f"{prefix}missing; {what} (config/default.yaml explains every key)"
    if problem["type"] == "union_tag_invalid":
        known = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        near = difflib.get_close_matches(context["tag"], known, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"{prefix}unknown name '{context['tag']}'; {hint}known: {', '.join(known)}"
    own_text = problem["type"] in ("unknown_key", "truth_value", "run", "task", "fit", "name")
    if own_text:
        return f"{prefix}{problem['msg']}"
    return f"{prefix}{'its name ' if is_key else ''}{_wanted(problem)}, found {_shown(problem['input'])}"


# What was wanted, for those of pydantic's texts that speak of Python.
WANTED = {
    "tuple_type": "must be a list, written [first, second]",
    "too_short": "must have at least {min_length} entries",
    "model_type": "must be a section of keys, each on a line such as 'key: value'",
    "dict_type": "must be a section of keys, each on a line such as 'key: value'",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "literal_error": "must be {expected}",
    "greater_than": "must be greater than {gt:.12g}",
    "greater_than_equal": "must be greater than or equal to {ge:.12g}",
    "less_than": "must be less than {lt:.12g}",
    "less_than_equal": "must be less than or equal to {le:.12g}",
}


def _wanted(problem: Any) -> str:
    """What a pydantic error wanted, in the words of a YAML file."""
    kind, found, context = problem["type"], problem["input"], problem.get("ctx", {})
    if isinstance(found, float) and not math.isfinite(found):
        return WANTED["finite_number"]
    if kind == "greater_than_equal" and context["ge"] == SMALLEST and float(found) <= 0:
        return "must be positive"
    if kind == "string_type" and isinstance(found, bool | int | float | date):
        return "must be text: put it in quotes"
    if kind == "string_pattern_mismatch" and context["pattern"] == NAME_PATTERN:
        return "must be letters, digits, - and _, beginning with a letter or a digit"
    if kind == "string_pattern_mismatch" and context["pattern"] == IMPORT_PATTERN:
        return "must be a module and a name in it, such as torchvision.models:resnet18"
    if kind == "model_attributes_type":  # one of several sections
        name = f"{found}, ..." if isinstance(found, str) else "..."
        return f"must be a section with a name, such as {{name: {name}}}"
    return WANTED[kind].format(**context) if kind in WANTED else str(problem["msg"])


def _shown(value: Any) -> str:
    """A value for reading, on one line and not too long; Python refuses to print very long integers."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "an integer of more than 30 digits"
    text = repr(value)
    return text if len(text) <= 72 else f"{text[:69]}..."
