"""Sections whose keys are the options of a core, chosen by `name`."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import Field, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema, core_schema

from pipeline.config.section import Section
from pipeline.options import Positive, options_of, summary

S = TypeVar("S", bound=Section)


def section_of(
    base: type[S],
    options: Any,
    name: str | None = None,
    *,
    required: Collection[str] = (),
    without: Collection[str] = (),
    hints: Mapping[Any, Any] | None = None,
) -> type[S]:
    """Return the section of a study whose keys are `name` and the options of a core.

    Args:
        options: A frozen dataclass or a function, with types, bounds, defaults and descriptions.
        name: The name that the section is chosen by; without it, the section is no choice and has no such key.
        required: Options that a study has to give, whatever their default is.
        without: Options that a study cannot set; they keep their default.
        hints: Types in YAML by the types in the core that they replace, also as entries of tuples.
    """
    # YAML has no notation for a complex number, so studies give real values.
    known = {complex: Positive} | dict(hints or {})
    keys: dict[str, Any] = {}
    if name is not None:
        keys["name"] = (Literal[name], name)
    for option in options_of(options):
        if option.name not in without:
            needed = option.name in required or option.default is dataclasses.MISSING
            keys[option.name] = (
                _in_yaml(option.hint, known),
                _field(... if needed else option.default, option.description),
            )
    return create_model(options.__name__, __base__=base, __doc__=summary(options), **keys)


def section_of_all(base: type[S], registry: Mapping[str, type], title: str, description: str) -> type[S]:
    """Return the section whose keys are `name`, one of a registry's or else its first, and the options of all entries.

    Null is each option's default. It stands for the default of the entry, or for nothing if the entry has no such
    option. An option of several entries is one key. Paths come first, and a study writes them as text.
    """
    hints: dict[str, Any] = {}
    texts: dict[str, dict[str, str]] = {}
    lines = [description]
    for name, entry in registry.items():
        options = options_of(entry)
        own = ", ".join(option.name for option in options)
        lines.append(f"  {name}{f' {{{own}}}' if own else ''}: {summary(entry)}")
        for option in options:
            hint = _without_null(option.hint)
            if hints.setdefault(option.name, hint) != hint:
                raise TypeError(
                    f"{entry.__name__}: {option.name} has another type in another entry; rename it"
                )
            null = "" if option.default in (None, dataclasses.MISSING) else f" Null takes {option.default}."
            texts.setdefault(option.name, {})[name] = f"{option.description}{null}"
    keys: dict[str, Any] = {
        "name": (Literal[tuple(registry)], Field(next(iter(registry)), description="\n".join(lines)))
    }
    for option_name in sorted(hints, key=lambda known: hints[known] is not Path):
        hint, told = hints[option_name], texts[option_name]
        in_yaml = Annotated[str, Field(min_length=1)] if hint is Path else hint
        text = " ".join(f"{name}: {own}" for name, own in told.items())
        keys[option_name] = (in_yaml | None, Field(None, description=text))
    return create_model(title, __base__=base, __doc__=description, **keys)


def _without_null(hint: Any) -> Any:
    """Return the type of an option that may be None without that None."""
    members = [member for member in get_args(hint) if member is not NoneType]
    return members[0] if NoneType in get_args(hint) and len(members) == 1 else hint


def _field(default: Any, description: str | None) -> Any:
    """Return a key; a default that is an object of the core is not written to the schema."""
    if dataclasses.is_dataclass(default):
        return Field(default_factory=lambda: default, description=description)
    return Field(default, description=description)


def _in_yaml(hint: Any, known: Mapping[Any, Any]) -> Any:
    """Replace a type, or that of a tuple's entries, by the type that replaces it in a study."""
    if get_origin(hint) is tuple and get_args(hint)[-1] is ...:
        return tuple[_in_yaml(get_args(hint)[0], known), ...]  # type: ignore[misc]  # computed
    return known.get(hint, hint)


@dataclasses.dataclass(frozen=True)
class Choice:
    """Pydantic's view of a registry: `Annotated[Smoothing, Choice(SMOOTHINGS)]`.

    A section such as `{name: mixup, alpha: 0.4}` becomes the registry's object of that name, and is written as such a
    section again. Nothing of an entry is written down a second time.

    Attributes:
        registry: Frozen dataclasses by their names in studies.
        required: Fields that a study has to give, whatever their default is.
        without: Fields that a study cannot set; they keep their default.
        sections: Sections that a study may write instead of an entry; they stay sections.
    """

    registry: Mapping[str, type]
    required: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    sections: tuple[type[Section], ...] = ()

    def all_sections(self) -> dict[str, type[Section]]:
        """The sections that a study may write, by name."""
        entries = {
            name: section_of(Section, options, name, required=self.required, without=self.without)
            for name, options in self.registry.items()
        }
        return entries | {section.model_fields["name"].default: section for section in self.sections}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        sections = list(self.all_sections().values())
        union: Any = Union[tuple(sections)]  # noqa: UP007
        tagged = Annotated[union, Field(discriminator="name")] if len(sections) > 1 else union
        checked = handler.generate_schema(tagged)
        return core_schema.no_info_wrap_validator_function(
            self._read, checked, serialization=core_schema.plain_serializer_function_ser_schema(self._write)
        )

    def _read(self, value: Any, check: Any) -> Any:
        if isinstance(value, tuple(self.registry.values())):
            return value
        section = check(value)
        if isinstance(section, self.sections):
            return section
        keys = type(section).model_fields.keys() - {"name"}
        return self.registry[section.name](**{key: getattr(section, key) for key in keys})

    def _write(self, options: Any) -> Any:
        if isinstance(options, self.sections):
            return options
        name = next(name for name, kind in self.registry.items() if kind is type(options))
        fields = (field.name for field in dataclasses.fields(options) if field.name not in self.without)
        return {"name": name} | {key: getattr(options, key) for key in fields}
