"""The comments of a study file, written from the descriptions of its keys."""

import re
import textwrap
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from pipeline.config.choice import Choice
from pipeline.config.section import Section
from pipeline.config.study import Study

WIDTH = 120


def commented(text: str) -> str:
    """Return the YAML of a study, or of a part of one, with every key explained where it stands for the first time.

    Lines that are comments are replaced, but for those before the first blank line, which introduce the file; comments
    behind a value stay.
    """
    introduction, blank, rest = text.partition("\n\n") if text.startswith("#") else ("", "", text)
    lines = [line for line in rest.splitlines() if not line.lstrip().startswith("#")]
    root = yaml.compose("\n".join(lines), Loader=yaml.SafeLoader)
    above = dict(_comments(root, Study, set()))
    out = [line for number, own in enumerate(lines) for line in (*above.get(number, ()), own)]
    return f"{introduction}{blank}" + "\n".join(out) + "\n"


def _comments(node: Any, kind: Any, told: set[tuple[str, str]]) -> Iterator[tuple[int, list[str]]]:
    """Yield the comments for the keys below a node, by line; `told` are the keys that were explained before."""
    if getattr(node, "flow_style", False):
        return
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from _comments(entry, _entries(kind), told)
    if not isinstance(node, yaml.MappingNode):
        return
    section = _section(kind, node)
    for key, value in node.value:
        below = _entries(kind)
        if section is not None and key.value in section.model_fields:
            below = get_type_hints(section, include_extras=True)[key.value]
            indent = " " * key.start_mark.column
            lines = [] if _is_tag(section, key.value) else list(_explained(section, key.value, below, told))
            lines += [line for entry in _inline(value) for line in _keys_of(entry, below, told)]
            yield key.start_mark.line, [line for text in lines for line in _wrapped(text, indent)]
        yield from _comments(value, below, told)


def _inline(value: Any) -> list[yaml.MappingNode]:
    """The mappings that are written on a key's own line, or as the entries of its list."""
    entries = value.value if isinstance(value, yaml.SequenceNode) else [value]
    return [entry for entry in entries if isinstance(entry, yaml.MappingNode) and entry.flow_style]


def _is_tag(section: type[Section], key: str) -> bool:
    """Whether a key only names the section, which its parent explains."""
    return key == "name" and len(_literals(section.model_fields[key].annotation)) == 1


def _explained(section: type[Section], key: str, hint: Any, told: set[tuple[str, str]]) -> Iterator[str]:
    """Yield what a key is for and what may be chosen, unless that was said before."""
    text = section.model_fields[key].description or ""
    if (key, text) in told:
        return
    told.add((key, text))
    words = [str(word) for word in _literals(hint)]
    missing = any(word not in text for word in words)
    yield f"{text} One of: {', '.join(words)}." if missing else text
    for name, choice in _choices(hint).items():
        own = ", ".join(other for other in choice.model_fields if other != "name")
        # Without the papers that a docstring cites.
        summary = re.sub(r" \[\d[^]]*\]", "", (choice.__doc__ or "").strip())
        yield f"  {name}{f' {{{own}}}' if own else ''}: {summary}"


def _keys_of(entry: yaml.MappingNode, hint: Any, told: set[tuple[str, str]]) -> Iterator[str]:
    """Yield what the keys of a mapping on one line are for, unless that was said before."""
    kinds = [hint, _entries(hint)]
    section = next((found for kind in kinds if (found := _section(kind, entry)) is not None), None)
    if section is None:
        return
    for key, _ in entry.value:
        if key.value in section.model_fields and not _is_tag(section, key.value):
            below = get_type_hints(section, include_extras=True)[key.value]
            lines = list(_explained(section, key.value, below, told))
            yield from (f"  {key.value}: {line}" for line in lines[:1])


def _wrapped(text: str, indent: str) -> list[str]:
    """Write a line as comments of at most a file's width; wrapped lines are indented further."""
    inner = indent + "# " + " " * (len(text) - len(text.lstrip()))
    further = inner + ("  " if text.startswith(" ") else "")
    return textwrap.wrap(text.strip(), WIDTH, initial_indent=inner, subsequent_indent=further)


def _choices(hint: Any) -> dict[str, type[Section]]:
    """The sections that a key chooses between by name."""
    for part in _parts(hint):
        if isinstance(part, Choice):
            return part.all_sections()
    found = [part for part in _parts(hint) if isinstance(part, type) and issubclass(part, Section)]
    return {kind.model_fields["name"].default: kind for kind in found} if len(found) > 1 else {}


def _section(hint: Any, node: yaml.MappingNode) -> type[Section] | None:
    """The section that a mapping is, chosen by its name where there are several."""
    if choices := _choices(hint):
        names = [value.value for key, value in node.value if key.value == "name"]
        return choices.get(names[0]) if names else None
    if get_origin(hint) in (dict, tuple):
        return None
    return next((part for part in _parts(hint) if isinstance(part, type) and issubclass(part, Section)), None)


def _entries(hint: Any) -> Any:
    """The type of the entries of a list or of a mapping."""
    for part in _parts(hint):
        if get_origin(part) is dict:
            return get_args(part)[1]
        if get_origin(part) is tuple:
            return get_args(part)[0]
    return None


def _literals(hint: Any) -> list[Any]:
    return [value for part in _parts(hint) if get_origin(part) is Literal for value in get_args(part)]


def _parts(hint: Any) -> Iterator[Any]:
    """A type, the members of a union, and what annotations say."""
    if get_origin(hint) in (Annotated, Union, UnionType):
        for part in get_args(hint):
            yield from _parts(part)
    elif hint is not NoneType:
        yield hint
        if get_origin(hint) is tuple:
            for part in get_args(hint):
                yield from (
                    found
                    for found in _parts(part)
                    if isinstance(found, Choice) or get_origin(found) is Literal
                )
