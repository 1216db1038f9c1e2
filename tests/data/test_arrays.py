import numpy as np
import pytest

from pipeline.data import load_images
from pipeline.errors import ConfigError

GRAY = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
COLOR = np.arange(4 * 6 * 7 * 3, dtype=np.uint8).reshape(4, 6, 7, 3)


def arrays(images=GRAY, **change):
    labels = np.arange(len(images)) % 3
    return {
        "train_images": images, "train_labels": labels, "test_images": images[:2], "test_labels": labels[:2],
    } | change  # fmt: skip


def load(tmp_path, **content):
    np.savez(tmp_path / "own.npz", **content)
    return load_images("arrays", directory=None, cache=tmp_path, path=tmp_path / "own.npz")


def test_gray_images_are_read_as_they_are_and_classes_called_by_number(tmp_path):
    own = load(tmp_path, **arrays())
    np.testing.assert_array_equal(own.train_images, GRAY)
    assert own.classes == ["0", "1", "2"]
    assert own.train_labels.dtype == np.int64


@pytest.mark.parametrize("images", [COLOR, np.moveaxis(COLOR, 3, 1)])
def test_colors_come_first_wherever_they_were(tmp_path, images):
    own = load(tmp_path, **arrays(images), classes=np.array(["a", "b", "c"]))
    np.testing.assert_array_equal(own.train_images, np.moveaxis(COLOR, 3, 1))
    assert own.classes == ["a", "b", "c"]


def test_a_single_channel_is_gray(tmp_path):
    np.testing.assert_array_equal(load(tmp_path, **arrays(GRAY[:, None])).train_images, GRAY)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"train_images": GRAY.astype(float)},
            r"train_images holds float64 of shape \(5, 6, 7\); wanted uint8",
        ),
        ({"train_images": GRAY[0]}, "wanted uint8, 0 to 255, of shape"),
        ({"train_images": GRAY[:0], "train_labels": np.zeros(0, int)}, "wanted uint8, 0 to 255, of shape"),
        ({"test_images": GRAY[:2, :5]}, "differ in size or channels"),
        ({"train_labels": np.zeros(4, int)}, r"wanted whole numbers of shape \(5,\), one for each image"),
        ({"train_labels": np.zeros(5)}, "train_labels holds float64"),
        ({"test_labels": np.array([0, -1])}, "test_labels, row 2: wanted a class from 0, found -1"),
        ({"classes": np.array(["a", "b"])}, "labels reach 2, but only 2 classes are named"),
        (
            {"train_labels": np.arange(5) % 2, "test_labels": np.full(2, 2)},
            "test_labels: class 2 has images to test on, and none to train on",
        ),
        ({"train_labels": np.zeros(5, int), "test_labels": np.zeros(2, int)}, "has 1 class;"),
    ],
)
def test_arrays_that_do_not_fit_are_one_line(tmp_path, change, words):
    with pytest.raises(ConfigError, match=words) as error:
        load(tmp_path, **arrays(**change))
    assert "\n" not in str(error.value)


def test_a_missing_array_is_named(tmp_path):
    content = arrays()
    del content["test_labels"]
    with pytest.raises(ConfigError, match="has no array 'test_labels', found train_images"):
        load(tmp_path, **content)


def test_another_file_is_one_line(tmp_path):
    path = tmp_path / "own.npz"
    np.save(tmp_path / "array.npy", GRAY)
    for content in (b"x", (tmp_path / "array.npy").read_bytes(), None):
        path.write_bytes(content) if content is not None else path.unlink()
        with pytest.raises(ConfigError, match=r"own\.npz: (not a readable|there is no such file)"):
            load_images("arrays", directory=None, cache=tmp_path, path=path)
