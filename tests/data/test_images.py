"""The image data sets that studies know by name, each with the same laws."""

import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from pipeline.config.images import ImageData
from pipeline.data import IMAGES
from pipeline.data.arrays import ImageArrays
from pipeline.data.digits import Digits
from pipeline.data.fashion_mnist import FashionMnist
from pipeline.data.folder import ImageFolder
from pipeline.data.idx_images import FILES, IdxImages
from pipeline.data.images import PATHS
from pipeline.data.letters import Letters
from pipeline.operations.inputs import KEYS
from pipeline.options import options_of

RNG = np.random.default_rng(0)
ARRAYS = {
    "train_images": RNG.integers(0, 256, (5, 6, 7), np.uint8),
    "train_labels": np.arange(5) % 3,
    "test_images": RNG.integers(0, 256, (3, 6, 7), np.uint8),
    "test_labels": np.arange(3),
}


@pytest.fixture
def written(tmp_path, write_idx, tiny_fashion, monkeypatch):
    """A folder with the same images in every format, beside Fashion-MNIST in `tiny`; drawn sets are small."""
    monkeypatch.setattr(FashionMnist, "N_TRAIN", 7)
    monkeypatch.setattr(Letters, "N_TRAIN", 62)
    monkeypatch.setattr(Letters, "N_TEST", 62)
    (tmp_path / "faces").mkdir()
    shutil.copy(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSerif.ttf"), tmp_path / "faces")
    np.savez(tmp_path / "own.npz", **ARRAYS)
    for name, values in ARRAYS.items():
        write_idx(tmp_path / "idx" / FILES[name], values, compress=False)
    for part in ("train", "test"):
        for i, (image, label) in enumerate(
            zip(ARRAYS[f"{part}_images"], ARRAYS[f"{part}_labels"], strict=True)
        ):
            path = tmp_path / part / str(label) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return tmp_path


#: Each data set, with options; the argument is the folder of `written`.
IMAGES_CASES = {
    "fashion_mnist": lambda folder: FashionMnist(directory=folder / "tiny"),
    "digits": lambda _: Digits(),
    "letters": lambda folder: Letters(directory=folder / "faces"),
    "folder": lambda folder: ImageFolder(directory=folder, image_size=6, channels=3),
    "idx": lambda folder: IdxImages(directory=folder / "idx"),
    "arrays": lambda folder: ImageArrays(path=folder / "own.npz"),
}


def test_every_data_set_of_studies_has_a_case(tmp_path):
    assert {name: type(case(tmp_path)) for name, case in IMAGES_CASES.items()} == IMAGES


@pytest.mark.parametrize("name", IMAGES_CASES)
def test_images_are_bytes_with_one_label_each_and_as_many_as_known(written, name):
    case = IMAGES_CASES[name](written)
    images = case.load(written / "cache")
    for pixels, labels in (
        (images.train_images, images.train_labels),
        (images.test_images, images.test_labels),
    ):
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3 or pixels.shape[1] == 3
        assert pixels.shape[1:] == images.train_images.shape[1:]
        assert labels.dtype == np.int64
        assert labels.shape == (len(pixels),)
        assert 0 <= labels.min() <= labels.max() < len(images.classes)
    assert np.ptp(images.train_images) > 0
    assert case.N_TRAIN in (None, len(images.train_images))


@pytest.mark.parametrize("name", IMAGES_CASES)
def test_images_are_the_same_every_time(written, name):
    first, second = (IMAGES_CASES[name](written).load(written / "cache") for _ in range(2))
    for part in ARRAYS:
        np.testing.assert_array_equal(getattr(first, part), getattr(second, part))


@pytest.mark.parametrize("name", IMAGES)
def test_options_are_described_and_named_so_that_the_workflow_knows_paths(name):
    assert set(PATHS) <= KEYS
    for option in options_of(IMAGES[name]):
        assert option.description
        assert option.name not in {"name", *ImageData.__annotations__}
        assert ("Path" in str(option.hint)) == (option.name in PATHS)


def test_options_out_of_bounds_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ImageFolder: image_size must lie in \[1, 4096\], not 0"):
        ImageFolder(directory=tmp_path, image_size=0, channels=1)
