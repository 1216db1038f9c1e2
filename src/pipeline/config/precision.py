"""Half-precision inference: which networks, at what cost, timed how."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.section import Name, Section

Mode = Literal["warm", "cold", "network"]


class Timing(Section):
    """How converted networks are timed: the spec of the stage `time_layers`."""

    budget_points: Annotated[float, Field(ge=0, le=100)] = Field(
        0.1,
        description="Accuracy on validation images that half precision may cost, in percentage "
        "points; beyond it layers "
        "go back to float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Where layers are timed besides the CPU: auto (a GPU where there is one), cpu "
        "(nowhere), cuda.",
    )
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field(
        (1, 64), min_length=1, description="Batch sizes at which layers are timed."
    )
    modes: tuple[Mode, ...] = Field(
        ("network", "warm", "cold"),
        min_length=1,
        description="What ran before a timed layer: network (the other layers), warm (the layer "
        "itself), cold (a sweep of "
        "the caches). The report's bars are those of the first.",
    )
    min_samples: Annotated[int, Field(ge=5, le=10**6)] = Field(
        60,
        description="Samples of each layer's time, at least; disturbed ones count where undisturbed "
        "ones are too few "
        "after 50 ms each.",
    )


class Precision(Timing):
    """Half-precision inference."""

    runs: tuple[Name, ...] = Field(
        (),
        description="Training runs whose network, that of the first seed, is converted to half "
        "precision and timed.",
    )
