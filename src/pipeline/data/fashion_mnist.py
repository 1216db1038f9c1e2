"""Fashion-MNIST: 60,000 + 10,000 gray images of 28 x 28 pixels of clothing in ten classes [1].

References:
    [1] Xiao, Rasul, Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
        algorithms", 2017.
"""

import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.data.fetch import download, unpack_debian_package
from pipeline.data.idx import read_idx
from pipeline.data.images import Images, ImageSet
from pipeline.errors import ConfigError

logger = logging.getLogger(__name__)

PACKAGE = "dataset-fashion-mnist"
PACKAGE_FOLDER = Path("usr/share/datasets/fashion-mnist")
INSTALLED = Path("/") / PACKAGE_FOLDER
UPSTREAM = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/"
    "b2617bb6d3ffa2e429640350f613e3291e10b141/data/fashion/"
)

# sha256 of the decompressed content, because Debian compresses anew and its .gz files differ from upstream's.
CONTENT_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

CLASSES = [
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
]


@dataclass(frozen=True, kw_only=True)
class FashionMnist(Images):
    """60,000 + 10,000 gray images of clothing, of 28 x 28 pixels.

    If `directory` is given, the files are looked for only there; otherwise where Debian's package installs them, then
    in the cache. If they are in neither, they are fetched with Debian's package (unpacked, not installed), or else over
    HTTPS from the upstream project. Every file is checked against its sha256.

    Attributes:
        directory: Folder with the four IDX files under upstream's names, compressed or not; null takes those of
            Debian's package (installed or fetched) or the public copy.
    """

    name: ClassVar[str] = "fashion_mnist"
    N_TRAIN: ClassVar[int] = 60_000

    directory: Path | None = None

    def load(self, cache: Path) -> ImageSet:
        """Return the images from where they are, or fetch them into the cache first."""
        folder = _find(self.directory, cache)
        parts = {name: _read(folder, name) for name in CONTENT_SHA256}
        return ImageSet(
            train_images=parts["train-images-idx3-ubyte"],
            train_labels=parts["train-labels-idx1-ubyte"].astype(np.int64),
            test_images=parts["t10k-images-idx3-ubyte"],
            test_labels=parts["t10k-labels-idx1-ubyte"].astype(np.int64),
            classes=list(CLASSES),
            source=f"Fashion-MNIST from {folder}",
        )


def _find(directory: Path | None, cache: Path) -> Path:
    if directory is not None:
        return directory
    cached = cache / "fashion-mnist"
    for folder in (INSTALLED, cached):
        if all((folder / f"{name}.gz").exists() for name in CONTENT_SHA256):
            return folder
    _fetch(cached)
    return cached


def _read(folder: Path, name: str) -> NDArray[np.uint8]:
    plain, compressed = folder / name, folder / f"{name}.gz"
    if not plain.exists() and not compressed.exists():
        raise ConfigError(
            f"dataset.directory: wanted {compressed.name} (or {name}) in {folder}, found neither; "
            "name a folder with the four files of Fashion-MNIST, or leave it out"
        )
    path = compressed if compressed.exists() else plain
    n_dimensions = 3 if "images" in name else 1
    return read_idx(path, n_dimensions=n_dimensions, sha256=CONTENT_SHA256[name])


def _fetch(cached: Path) -> None:
    """Fill the cache folder from the first source that has the files.

    Each file is verified in a temporary folder beside the cache folder and then renamed, so that every file in the
    cache is complete, even if two runs fetch at once.
    """
    sources: dict[str, Callable[[Path], Path]] = {
        f"Debian's {PACKAGE}": _from_debian,
        "the upstream project": _from_upstream,
    }
    reasons = []
    for source, fetch in sources.items():
        try:
            cached.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cached.parent) as temporary:
                logger.info("fetching Fashion-MNIST (31 MB) from %s", source)
                fetched = fetch(Path(temporary))
                for name in CONTENT_SHA256:
                    _read(fetched, name)
                for name in CONTENT_SHA256:
                    os.replace(fetched / f"{name}.gz", cached / f"{name}.gz")
            return
        except ConfigError as failure:
            reasons.append(f"{source}: {failure}")
        except OSError as failure:
            raise ConfigError(
                f"Fashion-MNIST cannot be written to the cache {cached}: {failure.strerror}; "
                "make room or choose another folder"
            ) from failure
    raise ConfigError(
        "Fashion-MNIST is not on this machine and could not be fetched; run 'apt-get install "
        f"{PACKAGE}', or set dataset.directory to a folder with its four IDX files ({'; '.join(reasons)})"
    )


def _from_debian(folder: Path) -> Path:
    unpack_debian_package(PACKAGE, folder)
    return folder / PACKAGE_FOLDER


def _from_upstream(folder: Path) -> Path:
    for name in CONTENT_SHA256:
        download(f"{UPSTREAM}{name}.gz", folder / f"{name}.gz")
    return folder
