"""Points of matrices, by name."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.section import Name, Section
from pipeline.options import Count, Seed


class AirportPoints(Section):
    """28,298 airports on the unit sphere with their elevations."""

    name: Literal["airports"] = "airports"
    n: Count | None = Field(None, description="How many places to use, drawn by seed; null takes them all.")
    held_out: float = Field(
        0.1, gt=0, lt=1, description="Part of the places that is held out to judge predictions."
    )
    seed: Seed = Field(0, description="Seed of the draw and of the held-out part.")


class CityPoints(Section):
    """Up to 234,908 cities on the unit sphere with their populations."""

    name: Literal["cities"] = "cities"
    n: Count | None = Field(None, description="How many places to use, drawn by seed; null takes them all.")
    held_out: float = Field(
        0.1, gt=0, lt=1, description="Part of the places that is held out to judge predictions."
    )
    seed: Seed = Field(0, description="Seed of the draw and of the held-out part.")


class GeoidPoints(Section):
    """1,038,240 places of a grid of the globe with the height of the geoid there."""

    name: Literal["geoid"] = "geoid"
    n: Count | None = Field(None, description="How many places to use, drawn by seed; null takes them all.")
    held_out: float = Field(
        0.1, gt=0, lt=1, description="Part of the places that is held out to judge predictions."
    )
    seed: Seed = Field(0, description="Seed of the draw and of the held-out part.")


class SphereMesh(Section):
    """Triangles on the unit sphere."""

    name: Literal["sphere"] = "sphere"
    refinements: int = Field(4, ge=0, le=8, description="20 * 4^refinements triangles.")


class CubeMesh(Section):
    """Triangles on the unit cube's surface."""

    name: Literal["cube"] = "cube"
    divisions: int = Field(
        24, ge=1, le=4096, description="Squares along an edge; 12 * divisions^2 triangles."
    )
    grading: float = Field(
        2.0, ge=1, le=6, description="Concentration of triangles toward the edges; 1 is uniform."
    )


class Embeddings(Section):
    """Features of the half-precision network."""

    name: Literal["embeddings"] = "embeddings"
    run: Name = Field(description="Training run whose converted network computes the features.")
    samples: Count = Field(8192, description="Training images to use, at most.")


AnyPoints = Annotated[
    AirportPoints | CityPoints | GeoidPoints | SphereMesh | CubeMesh | Embeddings, Field(discriminator="name")
]


class PointsSpec(Section):
    """The spec of the stage `points`."""

    points: AnyPoints


class EmbeddingsSpec(Section):
    """The spec of the stage `embeddings`."""

    points: Embeddings
