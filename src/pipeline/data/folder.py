"""A directory of images, one folder per class: `train/CLASS/*` and `test/CLASS/*` (or `val/CLASS/*`)."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from pipeline.artifacts.own_file import require_file
from pipeline.data.images import Images, ImageSet
from pipeline.errors import ConfigError

#: Pillow's names for gray images of 16 bits a pixel.
DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
PARTS = {"train": ("train",), "test": ("test", "val")}
#: Files that file managers leave in folders, beside those whose names start with a dot.
LEFT_OUT = ("thumbs.db", "desktop.ini")
ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Images):
    """Images of your own, in a folder for each class.

    Classes and files are taken in the order of their names. The largest centered square of each image is scaled to
    `image_size`. Images of 16 bits a pixel keep the upper 8. Files and folders whose names start with a dot are left
    out, and so are `Thumbs.db` and `desktop.ini`; everything else below a class must be an image that Pillow can read.
    All pixels are held in memory: 3 kB an image at 32 pixels in color.

    Attributes:
        directory: Folder that holds train/CLASS/* and test/CLASS/* (or val/CLASS/*).
        image_size: Pixels of a side that each image is scaled to.
        channels: Channels of the images: 1 is gray, 3 is color.
    """

    name: ClassVar[str] = "folder"

    directory: Path
    image_size: Annotated[int, Interval(ge=1, le=4096)]
    channels: Literal[1, 3]

    def load(self, cache: Path) -> ImageSet:
        """Read, scale and crop all images; an error names the part, the class or the file."""
        folders = {part: _part(self.directory, names) for part, names in PARTS.items()}
        classes = classes_in(folders["train"])
        if len(classes) < 2:
            found = f"only {classes[0]}" if classes else "none"
            raise ConfigError(
                f"dataset.directory: {folders['train']}: wanted a folder for each of two classes or more, found "
                f"{found}; sort the images so"
            )
        unknown = sorted(set(classes_in(folders["test"])) - set(classes))
        if unknown:
            raise ConfigError(
                f"dataset.directory: {folders['test'] / unknown[0]} is a class that {folders['train']} lacks; "
                "remove it or add training images"
            )
        train_images, train_labels = _read_part(folders["train"], classes, self.image_size, self.channels)
        test_images, test_labels = _read_part(folders["test"], classes, self.image_size, self.channels)
        for label, name in enumerate(classes):
            if not np.any(train_labels == label):
                raise ConfigError(f"dataset.directory: {folders['train'] / name} holds no image; add some")
        if not len(test_labels):
            raise ConfigError(
                f"dataset.directory: {folders['test']} holds no image in a class's folder; add some"
            )
        return ImageSet(
            train_images=train_images,
            train_labels=train_labels,
            test_images=test_images,
            test_labels=test_labels,
            classes=classes,
            source=f"images below {self.directory}",
        )


def _part(directory: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (directory / name).is_dir():
            return directory / name
    raise ConfigError(
        f"dataset.directory: wanted a folder {' or '.join(names)} in {directory}, found none; "
        "sort the images into train/CLASS and test/CLASS"
    )


def classes_in(folder: Path) -> list[str]:
    """Return the names of the classes in the folder of a part, in their order.

    Raises:
        ConfigError: If an image lies beside the folders of the classes, since nothing tells its class.
    """
    entries = sorted(entry for entry in folder.iterdir() if _counts(entry))
    stray = next((entry for entry in entries if entry.suffix.lower() in ENDINGS and not entry.is_dir()), None)
    if stray is not None:
        raise ConfigError(
            f"dataset.directory: {stray} lies beside the folders of the classes; move it into one, or remove it"
        )
    return [entry.name for entry in entries if entry.is_dir()]


def files_in(folder: Path) -> list[Path]:
    """Return the files of a class, in the order of their names."""
    return sorted(filter(_counts, folder.iterdir())) if folder.is_dir() else []


def _counts(path: Path) -> bool:
    return not path.name.startswith(".") and path.name.lower() not in LEFT_OUT


def _read_part(
    folder: Path, classes: list[str], image_size: int, channels: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    files = [(label, path) for label, name in enumerate(classes) for path in files_in(folder / name)]
    shape = (image_size, image_size) if channels == 1 else (channels, image_size, image_size)
    images = np.empty((len(files), *shape), np.uint8)
    with warnings.catch_warnings():
        # Pillow warns of a damaged file even if it then raises an error or reads the file.
        warnings.filterwarnings("ignore", module="PIL")
        for i, (_, path) in enumerate(files):
            images[i] = _read(path, image_size, channels)
    return images, np.array([label for label, _ in files], np.int64)


def _read(path: Path, image_size: int, channels: int) -> NDArray[np.uint8]:
    """Return an image, shape (image_size, image_size) or (channels, image_size, image_size)."""
    from PIL import Image, ImageOps

    require_file(path)
    try:
        with Image.open(path) as image:
            kind = image.mode
            # Pillow would turn all values above 255 into white.
            eight = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if kind in DEEP else image
            plain = eight.convert("L" if channels == 1 else "RGB")
    # Damaged files make Pillow's decoders raise all kinds of errors.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(
            f"dataset.directory: {path} is not a readable image ({' '.join(str(error).split())}); "
            "remove or replace it"
        ) from None
    if kind in ("I", "F"):
        raise ConfigError(
            f"dataset.directory: {path} holds 32-bit numbers, for which no white level is known; save it with "
            "8 or 16 bits a pixel"
        )
    pixels = np.asarray(ImageOps.fit(plain, (image_size, image_size), Image.Resampling.BILINEAR))
    return pixels if channels == 1 else pixels.transpose(2, 0, 1)
