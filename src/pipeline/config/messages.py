"""Mistakes in a section, on one line: the path of the value, what was wanted and what was found."""

import difflib
import math
import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from pydantic import ValidationError

from pipeline.config.section import IMPORT_PATTERN, NAME_PATTERN
from pipeline.options import SMALLEST

# Pydantic's names for the members of a plain union in the location of an error.
TYPE_STEP = re.compile(r"^(constrained-)?(int|float|str)$|^(tuple|function-\w+)\[")


# Other libraries' names for things that have another name here.
OTHER_NAMES = {"gaussian": "squared_exponential", "rbf": "squared_exponential", "exponential": "matern"}


def mistakes(error: ValidationError, config: Mapping[str, Any]) -> str:
    """Describe the first few mistakes that pydantic found in the given values."""
    problems = error.errors()
    # A list with a wrong entry also counts as too short, and a value of two possible types is wrong twice.
    around = {problem["loc"][:-1] for problem in problems}
    lines: dict[str, str] = {}
    for problem in problems:
        shorter = problem["type"] == "too_short" and problem["loc"] in around
        # A list where a text or a list is allowed: only the mistake in the list is reported.
        other = (
            problem["type"] == "string_type"
            and isinstance(problem["input"], list | tuple)
            and any(
                one["loc"][: len(problem["loc"]) - 1] == problem["loc"][:-1]
                for one in problems
                if one is not problem
            )
        )
        if not shorter and not other:
            line = _describe(problem, config)
            lines.setdefault(line.partition(": ")[0], line)
    found = list(lines.values())
    return "; also ".join(found[:3]) + (f" (and {len(found) - 3} more)" if len(found) > 3 else "")


def _describe(problem: Any, config: Mapping[str, Any]) -> str:
    """Describe a pydantic error in one line: path, what was wanted, what was found."""
    path: list[str] = []
    here: Any = config
    for step in problem["loc"]:
        # Pydantic puts the tag of a tagged union, and the type of a plain one, into the location; the user's file has
        # no such step.
        tagged = isinstance(here, Mapping) and here.get("name") == step and step not in here
        if tagged or (isinstance(step, str) and TYPE_STEP.match(step)):
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
    if is_key and problem["input"] is None:
        return f"{'.'.join([*path[:-1], 'null'])}: its name must be text: put it in quotes, found null"
    # The message of a misfit begins with the rest of the path.
    prefix = ".".join(path) + ("." if problem["type"] == "fit" else ": ") if path else ""
    if problem["type"] in ("missing", "union_tag_not_found"):
        if path[-1] == "optimizer":
            return f"{prefix}missing; name its method (see config/default.yaml for the choices)"
        what = "name it" if problem["type"] == "union_tag_not_found" else "give it"
        return f"{prefix}missing; {what} (config/default.yaml explains every key)"
    if problem["type"] == "union_tag_invalid":
        known = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        near = difflib.get_close_matches(context["tag"], known, n=1, cutoff=0.4)
        meant = [name for name in (OTHER_NAMES.get(context["tag"]), *near) if name in known]
        hint = f"did you mean '{meant[0]}'? " if meant else ""
        if not isinstance(found := (here or {}).get("name"), str):
            return (
                f"{'.'.join([*path, 'name'])}: must be text, found {_shown(found)}; known: {', '.join(known)}"
            )
        return f"{prefix}unknown name '{context['tag']}'; {hint}known: {', '.join(known)}"
    if problem["type"] == "value_error":
        return f"{prefix}{context['error']}"
    if problem["type"] in ("unknown_key", "truth_value", "wrong", "fit"):
        return f"{prefix}{problem['msg']}"
    return f"{prefix}{'its name ' if is_key else ''}{_wanted(problem)}, found {_shown(problem['input'])}"


# What was wanted, for those of pydantic's messages that use terms of Python.
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
    "string_type": "must be one text",
    "string_too_short": "must be a text that is not empty",
    "string_too_long": "must have at most {max_length} letters, so shorten it",
    "too_long": "must have at most {max_length} entries",
    "literal_error": "must be {expected}",
    "greater_than": "must be greater than {gt:.12g}",
    "greater_than_equal": "must be greater than or equal to {ge:.12g}",
    "less_than": "must be less than {lt:.12g}",
    "less_than_equal": "must be less than or equal to {le:.12g}",
}


def _wanted(problem: Any) -> str:
    """Say what a pydantic error wanted, in the terms of a YAML file."""
    kind, found, context = problem["type"], problem["input"], problem.get("ctx", {})
    if isinstance(found, float) and not math.isfinite(found):
        return WANTED["finite_number"]
    if kind == "greater_than_equal" and context["ge"] == SMALLEST and float(found) <= 0:
        return "must be positive"
    if kind == "string_type" and isinstance(found, bool | int | float | date):
        return "must be text: put it in quotes"
    if kind == "string_type" and found is None:
        return "must be text: write it after the colon (config/default.yaml explains every key)"
    if kind == "too_short" and context["min_length"] == 1:
        return "must have at least one entry"
    if kind == "string_pattern_mismatch" and context["pattern"] == NAME_PATTERN:
        return "must be letters, digits, - and _, beginning with a letter or a digit"
    if kind == "string_pattern_mismatch" and context["pattern"] == IMPORT_PATTERN:
        return "must be a module and a name in it, such as torchvision.models:resnet18"
    if kind == "model_attributes_type":  # one of several sections
        name = f"{found}, ..." if isinstance(found, str) else "..."
        return f"must be a section with a name, such as {{name: {name}}}"
    return WANTED[kind].format(**context) if kind in WANTED else str(problem["msg"])


def _shown(value: Any) -> str:
    """Return a value as text, on one line and not too long; Python refuses to print very long integers."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "an integer of more than 30 digits"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 72 else f"{text[:69]}..."
