"""Images of one's own as arrays in one `.npz` file."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.images import ImageSet
from pipeline.errors import ConfigError

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def load_arrays(*, directory: Path | None, cache: Path, path: Path) -> ImageSet:
    """Read images and labels that `numpy.savez` wrote under the names of `ARRAYS`.

    Images are uint8 of shape (n, height, width) if gray, else (n, 3, height, width) or (n, height, width, 3). Labels
    are whole numbers from 0. An array `classes` may name the classes; otherwise they are called by their numbers.

    Args:
        directory: Not used: the file is all.
        cache: Not used: nothing is fetched.
        path: The file.

    Raises:
        ConfigError: If the file cannot be read, or an array is missing or of another shape or type.
    """
    found = _loaded(path)
    images = {part: _images(path, f"{part}_images", found[f"{part}_images"]) for part in ("train", "test")}
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise ConfigError(
            f"{path}: train_images of shape {images['train'].shape} and test_images of shape {images['test'].shape} "
            "differ in size or channels; make them alike"
        )
    labels = {
        part: _labels(path, f"{part}_labels", found[f"{part}_labels"], len(images[part])) for part in images
    }
    n_classes = 1 + max(int(own.max()) for own in labels.values())
    classes = (
        [str(name) for name in found["classes"]] if "classes" in found else [str(i) for i in range(n_classes)]
    )
    if len(classes) < max(n_classes, 2):
        raise ConfigError(
            f"{path}: labels go up to {n_classes - 1}, but there are {len(classes)} classes; name each, and at least 2"
        )
    return ImageSet(images["train"], labels["train"], images["test"], labels["test"], classes, str(path))


def _loaded(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of a file by name; those that are needed have to be there."""
    try:
        file = np.load(path)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with file:
            found = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path}: not a readable .npz file ({' '.join(str(error).split())})") from None
    missing = [name for name in ARRAYS if name not in found]
    if missing:
        there = ", ".join(found) or "none"
        raise ConfigError(f"{path}: has no array {missing[0]!r}, found {there}; it needs {', '.join(ARRAYS)}")
    return found


def _images(path: Path, name: str, found: NDArray[Any]) -> NDArray[np.uint8]:
    """Check images, and put their colors first."""
    if found.ndim == 4 and found.shape[1] not in (1, 3) and found.shape[3] in (1, 3):
        found = np.moveaxis(found, 3, 1)
    if found.ndim == 4 and found.shape[1] == 1:
        found = found[:, 0]
    if (
        found.dtype != np.uint8
        or not (found.ndim == 3 or (found.ndim == 4 and found.shape[1] == 3))
        or not found.size
    ):
        raise ConfigError(
            f"{path}: {name} holds {found.dtype} of shape {found.shape}; wanted uint8, 0 to 255, of shape (n, height, "
            "width) or (n, 3, height, width)"
        )
    return np.ascontiguousarray(found)


def _labels(path: Path, name: str, found: NDArray[Any], n: int) -> NDArray[np.int64]:
    if found.shape != (n,) or found.dtype.kind not in "iu":
        raise ConfigError(
            f"{path}: {name} holds {found.dtype} of shape {found.shape}; wanted whole numbers of shape ({n},), one for "
            "each image"
        )
    if found.min() < 0:
        raise ConfigError(
            f"{path}: {name}, row {int(found.argmin()) + 1}: wanted a class from 0, found {found.min()}"
        )
    return found.astype(np.int64)
