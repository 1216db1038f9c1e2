"""The comments of a study file, written from the descriptions of its keys."""

import re
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from pipeline.config.study import schema

WIDTH = 120
Schema = dict[str, Any]


def commented(text: str) -> str:
    """Return the YAML of a study, or of a part of one, with every key explained at its first occurrence.

    Comment lines are replaced, except those before the first blank line, which introduce the file. Comments after a
    value stay.
    """
    introduction, blank, rest = text.partition("\n\n") if text.startswith("#") else ("", "", text)
    lines = [line for line in rest.splitlines() if not line.lstrip().startswith("#")]
    root = yaml.compose("\n".join(lines), Loader=yaml.SafeLoader)
    above = dict(_comments(root, _study(), set()))
    out = [line for number, own in enumerate(lines) for line in (*above.get(number, ()), own)]
    return f"{introduction}{blank}" + "\n".join(out) + "\n"


_study = cache(schema)


def _comments(node: Any, kind: Schema, told: set[tuple[str, str]]) -> Iterator[tuple[int, list[str]]]:
    """Yield the comments for the keys below a node, by line; `told` has the keys that were explained before."""
    if getattr(node, "flow_style", False):
        return
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from _comments(entry, _entries(kind), told)
    if not isinstance(node, yaml.MappingNode):
        return
    known = _keys(kind, node)
    for key, value in node.value:
        below = known.get(key.value)
        if below is not None:
            indent = " " * key.start_mark.column
            lines = list(_explained(key.value, below, told))
            inline = value.value if isinstance(value, yaml.SequenceNode) else [value]
            lines += [line for entry in inline for line in _inline(entry, below, told)]
            yield key.start_mark.line, [line for text in lines for line in _wrapped(text, indent)]
        yield from _comments(value, _entries(kind) if below is None else below, told)


def _explained(key: str, kind: Schema, told: set[tuple[str, str]]) -> Iterator[str]:
    """Yield the meaning of a key and its choices, unless they were told before or the key only names its section."""
    # A key without a description of its own takes that of its section.
    text = next((part["description"] for part in (kind, *_variants(kind)) if "description" in part), "")
    if (key, text) in told or (key == "name" and "const" in kind):
        return
    told.add((key, text))
    words = [str(word) for part in _parts(kind) for word in (part.get("enum") or [part.get("const")]) if word]
    missing = any(word not in text for word in words)
    yield from (f"{text} One of: {', '.join(words)}." if missing else text).splitlines() or [""]
    for name, choice in _choices(kind).items():
        own = ", ".join(other for other in choice["properties"] if other != "name")
        # Leaves out the citations of a docstring.
        summary = re.sub(r" \[\d[^]]*\]", "", choice.get("description", ""))
        yield f"  {name}{f' {{{own}}}' if own else ''}: {summary}"


def _inline(entry: Any, kind: Schema, told: set[tuple[str, str]]) -> Iterator[str]:
    """Yield the meaning of each key of a mapping on one line, unless it was told before."""
    if isinstance(entry, yaml.MappingNode) and entry.flow_style:
        known = _keys(kind, entry) or _keys(_entries(kind), entry)
        for key, _ in entry.value:
            if key.value in known:
                lines = list(_explained(key.value, known[key.value], told))
                yield from (f"  {key.value}: {line}" for line in lines[:1])


def _wrapped(text: str, indent: str) -> list[str]:
    """Write a line as comments no wider than a file; wrapped lines are indented further."""
    inner = indent + "# " + " " * (len(text) - len(text.lstrip()))
    further = inner + ("  " if text.startswith(" ") else "")
    return textwrap.wrap(text.strip(), WIDTH, initial_indent=inner, subsequent_indent=further)


def _variants(kind: Schema) -> Iterator[Schema]:
    """Yield the alternative schemas of a value."""
    if "$ref" in kind:
        yield from _variants(_study()["$defs"][kind["$ref"].rpartition("/")[2]])
    elif members := kind.get("anyOf") or kind.get("oneOf"):
        for member in members:
            yield from _variants(member)
    else:
        yield kind


def _entries(kind: Schema) -> Schema:
    """Return the schema of the entries of a list or of a mapping."""
    for part in _variants(kind):
        several = [*part.get("patternProperties", {}).values(), *part.get("prefixItems", [])]
        if found := part.get("items") or part.get("additionalProperties") or next(iter(several), None):
            return dict(found)
    return {}


def _parts(kind: Schema) -> list[Schema]:
    """Return the schemas of a value, or of the entries of a list."""
    return [
        one
        for part in _variants(kind)
        for one in (_variants(_entries(part)) if part.get("type") == "array" else [part])
    ]


def _choices(kind: Schema) -> dict[str, Schema]:
    """Return the sections that a key chooses between, by name."""
    names = ((part, part.get("properties", {}).get("name", {})) for part in _parts(kind))
    return {name["const"]: part for part, name in names if "const" in name}


def _keys(kind: Schema, node: yaml.MappingNode) -> dict[str, Schema]:
    """Return the schemas of a section's keys; where there are several sections, its name chooses."""
    parts = list(_variants(kind))
    if choices := _choices({"anyOf": parts}):
        names = [value.value for key, value in node.value if key.value == "name"]
        parts = [choices[name] for name in names if name in choices]
    return next((part["properties"] for part in parts if "properties" in part), {})
