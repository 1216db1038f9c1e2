"""The network of a study: a builder of `pipeline.models` and its keyword arguments."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from pipeline.config.choice import Choice, section_of
from pipeline.config.section import IMPORT_PATTERN, Section, misfit
from pipeline.models import MODELS


class ModelSection(Section):
    """A network by name; its other keys are the options of its builder."""

    name: str


class ImportedModel(ModelSection):
    """A network of another library or of your own."""

    name: Literal["imported"] = "imported"
    path: str = Field(
        pattern=IMPORT_PATTERN,
        description="Function or class that makes the network, as package.module:name.",
    )
    options: dict[str, Any] = Field({}, description="Keyword arguments beside num_classes.")


# Options that the workflow gives to every builder, and sizes that are fixed so that a study's networks are comparable.
_NOT_IN_STUDIES = {"cnn": ("channels", "hidden")}
_GIVEN = ("input_shape", "n_classes", "generator")

MODEL_SECTIONS: dict[str, type[ModelSection]] = {
    name: section_of(ModelSection, build, name, without=(*_GIVEN, *_NOT_IN_STUDIES.get(name, ())))
    for name, build in MODELS.items()
    if name != "imported"
} | {"imported": ImportedModel}


def _heads_divide_the_width(model: ModelSection) -> ModelSection:
    options = model.model_dump()
    if options.get("width", 0) % options.get("heads", 1):
        raise misfit(f"width: {options['width']} is not a multiple of {options['heads']} heads")
    return model


Model = Annotated[
    ModelSection, Choice({}, sections=tuple(MODEL_SECTIONS.values())), AfterValidator(_heads_divide_the_width)
]
