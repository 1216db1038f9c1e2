"""A user's images in four IDX files, the format of MNIST and its relatives."""

from pathlib import Path

from pipeline.data.arrays import checked_images
from pipeline.data.idx import read_idx
from pipeline.data.images import ImageSet
from pipeline.errors import ConfigError

#: The files by the names of their arrays in `arrays.ARRAYS`; a compressed file ends in `.gz`.
FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


def load_idx_images(*, directory: Path | None, cache: Path) -> ImageSet:
    """Read gray images of anything, and their labels, from the four files of `FILES`.

    Shapes and labels are checked, and classes are named by their numbers; there is no checksum.

    Args:
        directory: The folder of the files.
        cache: Not used: nothing is fetched.

    Raises:
        ConfigError: If a file is missing, damaged, or does not fit the others.
    """
    if directory is None:
        raise ConfigError("dataset.directory: missing; name the folder that holds the four IDX files")
    paths = {name: _path(directory, file) for name, file in FILES.items()}
    found = {
        name: read_idx(path, n_dimensions=3 if name.endswith("images") else 1) for name, path in paths.items()
    }
    places = {name: f"{path}: {name}" for name, path in paths.items()}
    return checked_images(places, found, f"IDX files in {directory}")


def _path(directory: Path, name: str) -> Path:
    for path in (directory / name, directory / f"{name}.gz"):
        if path.exists():
            return path
    raise ConfigError(
        f"dataset.directory: wanted {name} (or {name}.gz) in {directory}, found neither; name a folder with "
        f"{', '.join(FILES.values())}"
    )
