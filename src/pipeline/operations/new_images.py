"""The study of images: a folder with one folder per class, four IDX files, or arrays in a file."""

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from pipeline.artifacts.own_file import require_file
from pipeline.data.arrays import ARRAYS, ImageArrays
from pipeline.data.folder import classes_in, files_in
from pipeline.data.idx_images import FILES, IdxImages
from pipeline.errors import ConfigError
from pipeline.operations.templates import filled
from pipeline.operations.text import size
from pipeline.runtime.words import counted

SIZES = (8, 16, 28, 32, 64)
PARTS = ("train", "test")
#: Pillow's modes of images without color.
GRAY = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
MOST_NAMES = 12


def study_of_images(name: str, path: Path) -> str:
    """Look at the head of every image, count the images of each class, and write a study that trains on them."""
    test = path / "test" if (path / "test").is_dir() else path / "val"
    files = {
        part: {name: files_in(folder / name) for name in classes_in(folder)} if folder.is_dir() else {}
        for part, folder in (("train", path / "train"), ("test", test))
    }
    n_train, n_test = (sum(map(len, files[part].values())) for part in PARTS)
    if len(files["train"]) < 2 or not n_train or not n_test:
        raise ConfigError(
            f"{path}: wanted train/CLASS/* of two classes or more and test/CLASS/*, found "
            f"{counted(len(files['train']), 'class', 'classes')} "
            f"with {counted(n_train, 'image')} to train and {n_test} to test on; sort the images so"
        )
    heads = [_head(file) for part in PARTS for of_class in files[part].values() for file in of_class]
    sides = sorted(min(width, height) for width, height, _ in heads)
    channels = 3 if any(mode not in GRAY for *_, mode in heads) else 1
    (width, height, _), (widest, highest, _) = min(heads), max(heads)
    to_largest = f" to {widest} x {highest}" if (width, height) != (widest, highest) else ""
    wanted = max((entry for entry in SIZES if entry <= sides[len(sides) // 2]), default=SIZES[0])
    told = [
        f"{path}: {_counted({key: len(of_class) for key, of_class in files['train'].items()})}, to train on, and "
        f"{n_test:,} to test on.",
        f"Classes: {_shortened(files['train'])}.",
        f"Each: {width} x {height}{to_largest} pixels, {'color' if channels == 3 else 'gray'}.",
        f"In memory: {size((n_train + n_test) * channels * wanted**2)} at {wanted} pixels.",
    ]
    dataset = {"name": "folder", "directory": str(path), "image_size": wanted, "channels": channels}
    return _study(name, told, dataset, n_train)


def holds_images(path: Path) -> bool:
    """Whether an .npz file holds one of the arrays of an image set, instead of columns of points."""
    try:
        with zipfile.ZipFile(path) as file:
            return any(f"{name}.npy" in file.namelist() for name in ARRAYS)
    except (OSError, zipfile.BadZipFile):
        return False


def holds_idx_files(path: Path) -> bool:
    """Whether a folder holds one of the four IDX files, instead of a folder of images for each class."""
    return any((path / f"{name}{ending}").exists() for name in FILES.values() for ending in ("", ".gz"))


def study_of_set(name: str, path: Path) -> str:
    """Read images from a file of arrays or a folder of four IDX files, and write a study that trains on them."""
    if path.is_dir():
        images = IdxImages(directory=path).load(Path())
        dataset = {"name": "idx", "directory": str(path)}
    else:
        images = ImageArrays(path=path).load(Path())
        dataset = {"name": "arrays", "path": str(path)}
    numbers, counts = np.unique(images.train_labels, return_counts=True)
    by_class = {images.classes[number]: count for number, count in zip(numbers, counts.tolist(), strict=True)}
    shape = images.train_images.shape[1:]
    empty = len(images.classes) - len(by_class)
    told = [
        f"{path}: {_counted(by_class)}, to train on, and {len(images.test_labels):,} to test on.",
        f"Classes: {_shortened(images.classes)}{', of which ' + str(empty) + ' without images' if empty else ''}.",
        f"Each: {shape[-1]} x {shape[-2]} pixels, {'color' if len(shape) == 3 else 'gray'}.",
        f"In memory: {size(images.train_images.nbytes + images.test_images.nbytes)}.",
    ]
    return _study(name, told, dataset, len(images.train_labels))


def _counted(by_class: dict[str, int]) -> str:
    least, most = min(by_class.values()), max(by_class.values())
    each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"{counted(sum(by_class.values()), 'image')} of {counted(len(by_class), 'class', 'classes')}, {each} of each"


def _study(name: str, told: list[str], dataset: Mapping[str, object], n_train: int) -> str:
    """Return the text of a study that trains on nine of ten images and validates on the tenth."""
    validation = max(1, n_train // 10)
    return filled(
        "study_of_images.yaml.jinja",
        name=name,
        told=told,
        dataset=dataset,
        train=n_train - validation,
        validation=validation,
    )


def _head(file: Path) -> tuple[int, int, str]:
    """Return width, height and Pillow's mode of an image, without reading a pixel."""
    from PIL import Image

    require_file(file)
    try:
        with Image.open(file) as image:
            return image.width, image.height, image.mode
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(
            f"{file}: not a readable image ({' '.join(str(error).split())}); remove or replace it"
        ) from None


def _shortened(names: Iterable[str]) -> str:
    """List all names, or the first ones and the number of the others."""
    shown = list(names)
    rest = len(shown) - MOST_NAMES
    return ", ".join(shown[:MOST_NAMES]) + (f" and {rest:,} more" if rest > 0 else "")
