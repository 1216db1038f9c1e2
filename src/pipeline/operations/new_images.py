"""The study of images: a folder with one folder per class, or arrays in a file."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.data.arrays import ARRAYS, load_arrays
from pipeline.errors import ConfigError

SIZES = (8, 16, 28, 32, 64)
PARTS = ("train", "test")


def study_of_images(name: str, path: Path) -> str:
    """Count the images of each class, look at the first, and write a study that learns them.

    Raises:
        ConfigError: If the folder does not hold train/CLASS/* and test/CLASS/*.
    """
    from PIL import Image

    test = path / "test" if (path / "test").is_dir() else path / "val"
    counts = {part: _counts(folder) for part, folder in (("train", path / "train"), ("test", test))}
    n_train, n_test = (sum(counts[part].values()) for part in PARTS)
    if len(counts["train"]) < 2 or not n_test:
        raise ConfigError(
            f"{path}: wanted train/CLASS/* of two classes or more and test/CLASS/*, found {len(counts['train'])} "
            f"classes with {n_train} images to train and {n_test} to test on; sort the images so"
        )
    first = next(file for file in sorted((path / "train").rglob("*")) if _is_image_file(file))
    try:
        with Image.open(first) as image:
            side, channels = min(image.size), 1 if image.mode in ("1", "L", "I", "I;16") else 3
            size = f"{image.width} x {image.height} pixels, {image.mode}"
    except (OSError, ValueError, SyntaxError) as error:
        raise ConfigError(
            f"{first}: not a readable image ({' '.join(str(error).split())}); remove it"
        ) from None
    wanted = max((entry for entry in SIZES if entry <= side), default=SIZES[0])
    told = [
        f"{path}: {_counted(counts['train'])}, to train on, and {n_test:,} to test on.",
        f"The first, {first.relative_to(path)}: {size}.",
        f"In memory: {(n_train + n_test) * channels * wanted**2 / 1e6:,.1f} MB at {wanted} pixels.",
    ]
    dataset = {"name": "folder", "directory": str(path), "image_size": wanted, "channels": channels}
    return _study(name, told, dataset, n_train)


def holds_images(path: Path) -> bool:
    """Whether an .npz file holds one of the arrays of an image set, rather than columns of points."""
    try:
        with zipfile.ZipFile(path) as file:
            return any(f"{name}.npy" in file.namelist() for name in ARRAYS)
    except (OSError, zipfile.BadZipFile):
        return False


def study_of_arrays(name: str, path: Path) -> str:
    """Read arrays of images, and write a study that learns them.

    Raises:
        ConfigError: If an array is missing or does not fit the others.
    """
    images = load_arrays(directory=None, cache=Path(), path=path)
    numbers, counts = np.unique(images.train_labels, return_counts=True)
    by_class = {images.classes[number]: count for number, count in zip(numbers, counts.tolist(), strict=True)}
    shape = images.train_images.shape[1:]
    told = [
        f"{path}: {_counted(by_class)}, to train on, and {len(images.test_labels):,} to test on.",
        f"Each: {shape[-1]} x {shape[-2]} pixels, {'color' if len(shape) == 3 else 'gray'}.",
        f"In memory: {(images.train_images.nbytes + images.test_images.nbytes) / 1e6:,.1f} MB.",
    ]
    return _study(name, told, {"name": "arrays", "path": str(path)}, len(images.train_labels))


def _counted(by_class: dict[str, int]) -> str:
    least, most = min(by_class.values()), max(by_class.values())
    return f"{sum(by_class.values()):,} images of {len(by_class)} classes, {least:,} to {most:,} of each"


def _study(name: str, told: list[str], dataset: Mapping[str, object], n_train: int) -> str:
    """The text of a study that trains on nine images of ten and validates on the tenth."""
    validation = max(1, n_train // 10)
    train = n_train - validation
    return "\n".join(
        [
            *(f"# {line}" for line in told),
            "",
            f"study: {name}",
            "dataset:",
            *(
                f"  {key}: {json.dumps(value) if key in ('path', 'directory') else value}"
                for key, value in dataset.items()
            ),
            f"  train_samples: {train}",
            f"  validation_samples: {validation}",
            "seeds: [0]",
            "training:",
            "  runs:",
            "    sgd:",
            "      optimizer: {name: sgd, lr: 0.05}",
            f"      batch_size: {min(64, train)}",
            "      epochs: 10",
            "",
        ]
    )


def _is_image_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _counts(folder: Path) -> dict[str, int]:
    """How many files each class has."""
    if not folder.is_dir():
        return {}
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return {entry.name: sum(map(_is_image_file, entry.iterdir())) for entry in classes}
