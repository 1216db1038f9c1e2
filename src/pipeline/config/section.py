"""The base class of every section of a study, and the types of value that sections share."""

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.options import Seed


def wrong(text: str) -> PydanticCustomError:
    """Return an error with this text about a section or a value; the path of the value is written before the text."""
    return PydanticCustomError("wrong", "{text}", {"text": text})


def misfit(text: str) -> PydanticCustomError:
    """Return an error about keys that do not fit each other; the text begins with a key's path within the section."""
    return PydanticCustomError("fit", "{text}", {"text": text})


def _without_many_repeats(name: str) -> str:
    """Refuse names that repeat a part too often: Snakemake takes them for rules that depend on themselves."""
    if re.search(r"(.+?)\1{19}", name):
        raise wrong(f"'{name}' repeats a part 20 times; choose another")
    return name


Entries = TypeVar("Entries", bound=tuple[object, ...] | None)


# A module and a name in it.
IMPORT_PATTERN = r"^[\w.]+:\w+$"
# Names become folders, wildcards and words of shell commands.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=60), AfterValidator(_without_many_repeats)]


def _all_different(entries: Entries) -> Entries:
    if entries is not None and len(set(entries)) < len(entries):
        raise wrong(f"entries must differ, found {list(entries)}")
    return entries


#: For lists whose entries may occur only once.
ALL_DIFFERENT = AfterValidator(_all_different)
# The seeds that a training run is repeated with.
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), ALL_DIFFERENT]


def _is_number(annotation: Any) -> bool:
    """Whether a type is a number, a list of numbers, or an optional number."""
    of_a_literal = isinstance(annotation, int)
    return (
        of_a_literal or annotation in (int, float) or any(_is_number(part) for part in get_args(annotation))
    )


# Other libraries' words for keys of ours.
SYNONYMS = {
    "learning_rate": "lr",
    "rate": "lr",
    "step_size": "lr",
    "wd": "weight_decay",
    "batch": "batch_size",
}


def _nearest(word: str, known: list[str]) -> str | None:
    """Return the known word that was probably meant, or None."""
    if SYNONYMS.get(word) in known:
        return SYNONYMS[word]
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.6)), None)


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys, and no truth values for numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Keys that were added later: a spec leaves them out where they are null, so that older artefacts stay comparable.
    LATER: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _leave_out_what_came_later(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = write(self)
        return {key: value for key, value in found.items() if value is not None or key not in self.LATER}

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    near = _nearest(str(key), list(cls.model_fields))
                    hint = f"did you mean '{near}'?" if near else f"known keys: {', '.join(cls.model_fields)}"
                    raise PydanticCustomError(
                        "unknown_key", "unknown key '{key}'; {hint}", {"key": str(key), "hint": hint}
                    )
        return data

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, data: Any) -> Any:
        """Refuse truth values where a number is wanted: Python counts them as 0 or 1, and YAML reads yes as true."""
        for key, value in data.items() if isinstance(data, Mapping) else ():
            entries = value if isinstance(value, list | tuple) else [value]
            wanted = cls.model_fields[key].annotation if key in cls.model_fields else None
            if any(isinstance(entry, bool) for entry in entries) and _is_number(wanted):
                raise PydanticCustomError(
                    "truth_value", "must be a number, found {value}", {"key": key, "value": str(value)}
                )
        return data
