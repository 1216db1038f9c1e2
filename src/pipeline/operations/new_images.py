"""The study of a folder of images, one folder per class."""

import json
from pathlib import Path

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
    validation = max(1, n_train // 10)
    train = n_train - validation
    least, most = min(counts["train"].values()), max(counts["train"].values())
    return "\n".join(
        [
            f"# {path}: {n_train:,} images of {len(counts['train'])} classes, {least:,} to {most:,} of each, to train "
            f"on, and {n_test:,} to test on.",
            f"# The first, {first.relative_to(path)}: {size}.",
            f"# In memory: {(n_train + n_test) * channels * wanted**2 / 1e6:,.1f} MB at {wanted} pixels.",
            "",
            f"study: {name}",
            "dataset:",
            "  name: folder",
            f"  directory: {json.dumps(str(path))}",
            f"  image_size: {wanted}",
            f"  channels: {channels}",
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
