"""Inputs: images to learn from, and points to build matrices on.

A new data set is a class in a file of its own and a row: in `IMAGES` for images, in `PLACES` for points.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pipeline.data.airports import load_airports
from pipeline.data.arrays import ImageArrays
from pipeline.data.cities import load_cities
from pipeline.data.digits import Digits
from pipeline.data.fashion_mnist import FashionMnist
from pipeline.data.folder import ImageFolder
from pipeline.data.geoid import load_geoid
from pipeline.data.idx_images import IdxImages
from pipeline.data.images import Images, ImageSet
from pipeline.data.letters import Letters
from pipeline.data.own_points import load_own_points
from pipeline.data.places import Airports, Cities, Geoid, Places
from pipeline.data.points import PointSet
from pipeline.data.sphere import fibonacci_sphere
from pipeline.data.splits import Split, hold_out, split, stratified_order
from pipeline.data.uniform import uniform_cube, uniform_square
from pipeline.errors import ConfigError

__all__ = [
    "IMAGES",
    "PLACES",
    "POINTS",
    "ImageSet",
    "Images",
    "Places",
    "PointSet",
    "Split",
    "hold_out",
    "load_images",
    "load_points",
    "split",
    "stratified_order",
]

#: Image data sets, by their name in studies.
IMAGES: dict[str, type[Images]] = {
    kind.name: kind for kind in (FashionMnist, Digits, Letters, ImageFolder, IdxImages, ImageArrays)
}

#: Points with a quantity to predict, by their name in studies.
PLACES: dict[str, type[Places]] = {kind.name: kind for kind in (Airports, Cities, Geoid)}

POINTS: dict[str, Callable[..., PointSet]] = {
    "airports": load_airports,
    "cities": load_cities,
    "geoid": load_geoid,
    "sphere": fibonacci_sphere,
    "cube": uniform_cube,
    "uniform_square": uniform_square,
    "file": load_own_points,
}

Loader = TypeVar("Loader")


def load_images(name: str, *, directory: Path | None, cache: Path, **options: Any) -> ImageSet:
    """Load a registered image set.

    Args:
        name: A key of `IMAGES`.
        directory: Where its files are, for sets that are read from files; `None` lets the set find them.
        cache: A folder that downloads go to.
        **options: Further fields of the set's class.

    Raises:
        ConfigError: If there is no such set or option, an option is missing, or the set cannot be loaded.
    """
    kind = _look_up(IMAGES, name, "data set")
    given = options if directory is None else {"directory": directory, **options}
    _require_options(kind, given, f"the data set {name}")
    return kind(**given).load(cache)


def load_points(name: str, **options: Any) -> PointSet:
    """Load or generate a registered point set.

    Args:
        name: A key of `POINTS`.
        **options: Arguments of the set's function, such as `n_points` and `seed`.

    Raises:
        ConfigError: If there is no such set or option, an option is missing, or its value is out of range.
    """
    load = _look_up(POINTS, name, "point set")
    _require_options(load, options, f"the point set {name}")
    return load(**options)


def _require_options(made_by: Callable[..., Any], options: Mapping[str, Any], of: str) -> None:
    parameters = inspect.signature(made_by).parameters
    for option in options:
        _look_up(parameters, option, f"option of {of}")
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in options:
            raise ConfigError(f"{of} needs the option {option}; add it")


def _look_up(registry: Mapping[str, Loader], name: str, what: str) -> Loader:
    if name in registry:
        return registry[name]
    nearest = difflib.get_close_matches(name, registry, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise ConfigError(f"unknown {what} {name!r}; {hint}known are {', '.join(sorted(registry)) or 'none'}")
