"""Sections whose keys are the fields of a core's own frozen dataclass, chosen by `name`."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import Field, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema, core_schema

from pipeline.config.section import Section
from pipeline.options import Positive, descriptions, summary, type_hints


def section_of(
    options: type, name: str, *, required: Collection[str] = (), without: Collection[str] = ()
) -> type[Section]:
    """Return the section of a study whose keys are `name` and the fields of a frozen dataclass.

    Args:
        options: The dataclass; types with bounds, defaults and descriptions are its own.
        name: What the section is called by.
        required: Fields that a study has to give, whatever their default is.
        without: Fields that a study cannot give.
    """
    hints, texts = type_hints(options), descriptions(options)
    keys: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        if field.name not in without:
            needed = field.name in required or field.default is dataclasses.MISSING
            default = ... if needed else field.default
            # A complex number has no notation in YAML: studies take its real values.
            hint = Positive if hints[field.name] is complex else hints[field.name]
            keys[field.name] = (hint, Field(default, description=texts.get(field.name)))
    tag = Literal[name]  # type: ignore[valid-type]
    return create_model(
        options.__name__, __base__=Section, __doc__=summary(options), name=(tag, name), **keys
    )


@dataclasses.dataclass(frozen=True)
class Choice:
    """What pydantic needs to know of a registry: `Annotated[Smoothing, Choice(SMOOTHINGS)]`.

    A section such as `{name: mixup, alpha: 0.4}` becomes the object that the registry has under that name, and is
    written as such a section again. Nothing of an entry is written down a second time.

    Attributes:
        registry: Frozen dataclasses by the names that studies know them by.
        required: Fields that a study has to give, whatever their default is.
        without: Fields that a study cannot give.
        sections: Sections that a study may write instead of an entry; they stay sections.
    """

    registry: Mapping[str, type]
    required: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    sections: tuple[type[Section], ...] = ()

    def all_sections(self) -> dict[str, type[Section]]:
        """The sections that a study may write, by name."""
        entries = {
            name: section_of(options, name, required=self.required, without=self.without)
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
