"""Points of matrices, by name."""

import re
import unicodedata
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipeline.config.choice import Choice
from pipeline.config.section import ALL_DIFFERENT, Name, Section, misfit, wrong
from pipeline.data import PLACES, Places, PointSet, load_points
from pipeline.data.own_points import OwnPoints
from pipeline.data.splits import drawn_and_held_out
from pipeline.options import Count, Seed
from pipeline.runtime.words import counted


def _as_text(name: object) -> object:
    """Return a column's name as text; columns of arrays are named by their number."""
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else name


def _on_one_line(unit: str) -> str:
    # Control characters, separators of lines and paragraphs, and surrogates: no file can hold these.
    if any(unicodedata.category(mark) in ("Cc", "Zl", "Zp", "Cs") for mark in unit):
        raise wrong(f"must be on one line, without tabs and other control characters, found {unit!a}")
    return unit


ColumnName = Annotated[str, Field(min_length=1), BeforeValidator(_as_text)]
LONGEST_UNIT = 30
Unit = Annotated[str, Field(max_length=LONGEST_UNIT), AfterValidator(_on_one_line)]


def _coordinate_system(crs: str) -> str:
    if crs not in ("plane", "lonlat") and not re.fullmatch(r"EPSG:[0-9]{4,6}", crs):
        raise wrong(f"must be plane, lonlat or a code such as EPSG:25832, found '{crs}'")
    return crs


class PointsSection(Section):
    """Points that a stage makes."""

    name: str


class FilePoints(PointsSection):
    """Points of your own, from a file."""

    name: Literal["file"] = "file"
    path: str = Field(
        min_length=1,
        description="The file: CSV with names in its first line, .npy of shape (n, columns), .npz, Parquet, NetCDF "
        "(.nc), GeoTIFF (.tif), or GeoJSON (.geojson).",
    )
    coordinates: Annotated[tuple[ColumnName, ...] | None, ALL_DIFFERENT] = Field(
        None,
        min_length=1,
        description="Columns of the coordinates; null takes every column except those of the values. Columns of a "
        ".npy file are called 0, 1, and so on; coordinates of GeoJSON are called lon and lat.",
    )
    crs: Annotated[str, AfterValidator(_coordinate_system)] = Field(
        "plane",
        description="The system of coordinates: plane (Cartesian), lonlat (longitude and latitude in degrees), or a "
        "code such as EPSG:25832.",
    )
    value: ColumnName | Annotated[tuple[ColumnName, ...], Field(min_length=1), ALL_DIFFERENT] | None = Field(
        None, description="Column of the values that are known at the points, or several columns."
    )
    unit: Unit | tuple[Unit, ...] = Field(
        "",
        description="Unit of the values, or one unit for each column; empty takes the unit that the file states.",
    )
    n: Count | None = Field(None, description="How many places to use, drawn by seed; null takes them all.")
    held_out: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Part of the points that is held out to judge predictions; null is 0.1 if there are values, and "
        "otherwise 0.",
    )
    seed: Seed = Field(0, description="Seed of the draw and of the held-out part.")

    @model_validator(mode="after")
    def _a_unit_for_each_value(self) -> "FilePoints":
        if len(self.units) not in (0, len(self.values)):
            units, values = counted(len(self.units), "unit"), counted(len(self.values), "value")
            raise misfit(f"unit: {units} for {values}; give one for each, or none")
        return self

    @model_validator(mode="after")
    def _a_column_is_a_coordinate_or_a_value(self) -> "FilePoints":
        for column in self.values:
            if column in (self.coordinates or ()):
                raise misfit(
                    f"value: column '{column}' is one of points.coordinates too, and would predict itself; leave it "
                    "out of one of the two"
                )
        return self

    @property
    def values(self) -> tuple[str, ...]:
        return () if self.value is None else _several(self.value)

    @property
    def units(self) -> tuple[str, ...]:
        """The unit of each column of values, where the study gives them."""
        return _several(self.unit) if self.unit else ()

    def open(self) -> OwnPoints:
        """Open the file without reading anything yet."""
        return OwnPoints.open(
            Path(self.path), coordinates=self.coordinates, crs=self.crs, values=self.values, units=self.units
        )

    def divide(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Divide the n rows of the file into known and held-out ones; see `drawn_and_held_out`."""
        return drawn_and_held_out(
            n, wanted=self.n, part=self.part_held_out, seed=self.seed, path=Path(self.path)
        )

    @property
    def part_held_out(self) -> float:
        return (0.0 if self.value is None else 0.1) if self.held_out is None else self.held_out


def _several(given: str | tuple[str, ...]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else given


class Generated(PointsSection):
    """Points of any number, without values."""

    SET: ClassVar[str]  # the library's name for them
    DIMENSION: ClassVar[int] = 3

    n: Count = Field(8192, description="How many points.")

    def load(self) -> PointSet:
        return load_points(self.SET, n_points=self.n, **self.model_dump(exclude={"name", "n"}))


class UniformSquare(Generated):
    """Random points in the unit square."""

    SET, DIMENSION = "uniform_square", 2
    name: Literal["uniform_square"] = "uniform_square"
    seed: Seed = Field(0, description="Seed of the draw.")


class UniformCube(Generated):
    """Random points in the unit cube."""

    SET = "cube"
    name: Literal["uniform_cube"] = "uniform_cube"
    seed: Seed = Field(0, description="Seed of the draw.")


class FibonacciSphere(Generated):
    """Evenly spread points on the unit sphere."""

    SET = "sphere"
    name: Literal["fibonacci_sphere"] = "fibonacci_sphere"


class SphereMesh(PointsSection):
    """Triangles on the unit sphere."""

    name: Literal["sphere"] = "sphere"
    refinements: int = Field(4, ge=0, le=8, description="20 * 4^refinements triangles.")


class CubeMesh(PointsSection):
    """Triangles on the unit cube's surface."""

    name: Literal["cube"] = "cube"
    divisions: int = Field(
        24, ge=1, le=4096, description="Squares along an edge; 12 * divisions^2 triangles."
    )
    grading: float = Field(
        2.0, ge=1, le=6, description="Concentration of triangles toward the edges; 1 is uniform."
    )


class OwnMesh(PointsSection):
    """Triangles of a surface of your own, from a file."""

    name: Literal["mesh"] = "mesh"
    path: str = Field(
        min_length=1, description="The file: STL, OBJ, PLY, VTK or Gmsh (.msh). Equal vertices are merged."
    )


class Embeddings(PointsSection):
    """Features of the half-precision network."""

    name: Literal["embeddings"] = "embeddings"
    run: Name = Field(description="Training run whose converted network computes the features.")
    samples: Count = Field(8192, description="Training images to use, at most.")


_SECTIONS = FilePoints, UniformSquare, UniformCube, FibonacciSphere, SphereMesh, CubeMesh, OwnMesh, Embeddings
#: Point sets of the library by their options, and sections for points that a stage makes.
AnyPoints = Annotated[Places | PointsSection, Choice(PLACES, sections=_SECTIONS)]


class PointsSpec(Section):
    """The spec of the stage `points`."""

    points: AnyPoints


class EmbeddingsSpec(Section):
    """The spec of the stage `embeddings`."""

    points: Embeddings
