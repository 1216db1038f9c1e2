"""Half-precision inference: which networks, timed how."""

from typing import Annotated

from pydantic import Field

from pipeline.config.section import Name, Section


class Precision(Section):
    """Half-precision inference."""

    runs: tuple[Name, ...] = Field(
        (), description="Training runs whose network (first seed) is converted and timed."
    )
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field(
        (1, 64), min_length=1, description="Batch sizes at which layers are timed."
    )
    min_samples: Annotated[int, Field(ge=5, le=10**6)] = Field(
        60, description="Timed repetitions of each layer."
    )
