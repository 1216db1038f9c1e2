"""A user's images as arrays in one file, `.npz` or HDF5."""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.own_file import require_file
from pipeline.data.images import Images, ImageSet
from pipeline.errors import ConfigError
from pipeline.runtime.words import counted

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
CLASSES = "classes"
NAMES = (*ARRAYS, CLASSES)
MOST_CLASSES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ImageArrays(Images):
    """Images of your own, as arrays in one file.

    The file is one that `numpy.savez` wrote, `.npz`, or an HDF5 file, `.h5` or `.hdf5`, with the arrays of `ARRAYS` at
    its top. Labels are whole numbers from 0. An array `classes` may name the classes; otherwise their numbers are their
    names.

    Attributes:
        path: File with train_images, train_labels, test_images and test_labels: .npz, .h5 or .hdf5. Images are uint8 of
            shape (n, height, width) if gray, else (n, 3, height, width) or (n, height, width, 3).
    """

    name: ClassVar[str] = "arrays"

    path: Path

    def load(self, cache: Path) -> ImageSet:
        """Read and check the arrays."""
        path = self.path
        read = READERS.get(path.suffix.lower())
        if read is None:
            raise ConfigError(
                f"{path}: wanted a file that ends in {', '.join(READERS)}; write the images as one of these"
            )
        require_file(path)
        try:
            found = read(path)
        except (
            OSError,
            RuntimeError,
            ValueError,
            EOFError,
            NotImplementedError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise ConfigError(
                f"{path}: not a readable {path.suffix} file ({' '.join(str(error).split())}); write it again"
            ) from None
        missing = [name for name in ARRAYS if name not in found]
        if missing:
            there = ", ".join(found) or "none"
            raise ConfigError(
                f"{path}: has no array {missing[0]!r}, found {there}; it needs {', '.join(ARRAYS)}"
            )
        arrays = {name: array for name, array in found.items() if array is not None}
        return checked_images({name: f"{path}: {name}" for name in NAMES}, arrays, str(path))


def checked_images(places: Mapping[str, str], found: Mapping[str, NDArray[Any]], source: str) -> ImageSet:
    """Check the shapes, types and labels of a user's arrays, and return the image set.

    Args:
        places: Name of each array in error messages, by its name in `ARRAYS` or `CLASSES`.
        found: The arrays, by the same names; `CLASSES` may be missing.
        source: The origin of the images, in words.

    Raises:
        ConfigError: If an array does not fit.
    """
    images = {part: _images(places[f"{part}_images"], found[f"{part}_images"]) for part in ("train", "test")}
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise ConfigError(
            f"{places['test_images']} of shape {images['test'].shape} and training images of shape "
            f"{images['train'].shape} differ in size or channels; make them alike"
        )
    labels = {
        part: _labels(places[f"{part}_labels"], found[f"{part}_labels"], len(images[part])) for part in images
    }
    n_classes = 1 + max(int(own.max()) for own in labels.values())
    classes = (
        [str(i) for i in range(n_classes)]
        if CLASSES not in found
        else _names(places[CLASSES], found[CLASSES])
    )
    if len(classes) < 2:
        where = places[CLASSES if CLASSES in found else "train_labels"]
        raise ConfigError(f"{where}: has {counted(len(classes), 'class', 'classes')}; wanted at least 2")
    if len(classes) < n_classes:
        raise ConfigError(
            f"{places[CLASSES]}: labels reach {n_classes - 1}, but only {len(classes)} classes are named; name each"
        )
    strange = np.setdiff1d(labels["test"], labels["train"])
    if len(strange):
        raise ConfigError(
            f"{places['test_labels']}: class {classes[strange[0]]} has images to test on, and none to train on; give "
            "it some, or leave it out"
        )
    return ImageSet(images["train"], labels["train"], images["test"], labels["test"], classes, source)


def _from_npz(path: Path) -> dict[str, NDArray[Any] | None]:
    # The file is opened here, because numpy does not close a file that is not an archive.
    with path.open("rb") as stream:
        file = np.load(stream)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with file:
            return {name: np.asarray(file[name]) if name in NAMES else None for name in file.files}


def _from_hdf5(path: Path) -> dict[str, NDArray[Any] | None]:
    # NetCDF's library reads HDF5, because its own files are in this format.
    import netCDF4

    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        return {name: np.asarray(file[name][...]) if name in NAMES else None for name in file.variables}


#: Readers of a file's arrays, by its ending; arrays whose names are not in `NAMES` are not read and are None.
READERS: dict[str, Callable[[Path], dict[str, NDArray[Any] | None]]] = {
    ".npz": _from_npz,
    ".h5": _from_hdf5,
    ".hdf5": _from_hdf5,
}


def _images(where: str, found: NDArray[Any]) -> NDArray[np.uint8]:
    """Check images, and return them with the axis of colors before height and width."""
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
            f"{where} holds {found.dtype} of shape {found.shape}; wanted uint8, 0 to 255, of shape (n, height, "
            "width) or (n, 3, height, width)"
        )
    return np.ascontiguousarray(found)


def _labels(where: str, found: NDArray[Any], n: int) -> NDArray[np.int64]:
    if found.shape != (n,) or found.dtype.kind not in "iu":
        raise ConfigError(
            f"{where} holds {found.dtype} of shape {found.shape}; wanted whole numbers of shape ({n},), one for "
            "each image"
        )
    if found.min() < 0:
        raise ConfigError(
            f"{where}, row {int(found.argmin()) + 1}: wanted a class from 0, found {found.min()}"
        )
    if found.max() >= MOST_CLASSES:
        raise ConfigError(
            f"{where}, row {int(found.argmax()) + 1}: wanted a class below {MOST_CLASSES:,}, found {found.max()}; "
            "number the classes from 0"
        )
    return found.astype(np.int64)


def _names(where: str, found: NDArray[Any]) -> list[str]:
    try:
        if found.ndim != 1 or found.dtype.kind not in "SUO":
            raise ValueError
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in found.tolist()]
    except ValueError:
        raise ConfigError(
            f"{where} holds {found.dtype} of shape {found.shape}; wanted a name in UTF-8 for each class"
        ) from None
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where}: the name {twice[0]!r} occurs twice; give each class a name of its own")
    return names
