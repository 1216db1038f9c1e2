"""Twenty malformed folders of images: one line each, with the file or the folder that is wrong."""

import io
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.data import load_images
from pipeline.errors import ConfigError

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def encoded(form, pixels=PIXELS):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def of_size(width, height):
    """The start of a PNG file that claims to be of a size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


#: Files that are no images, and what is said of them.
FILES = {
    "empty": (b"", "not a readable image"),
    "text": (b"a cat", "not a readable image"),
    "drawing": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a readable image"),
    "array": (b"\x93NUMPY\x01\0", "not a readable image"),
    "archive": (b"PK\x03\x04" + bytes(60), "not a readable image"),
    "zeros": (bytes(300), "not a readable image"),
    "head of a PNG": (encoded("PNG")[:8], "not a readable image"),
    "half a PNG": (encoded("PNG")[: len(encoded("PNG")) // 2], "not a readable image"),
    "flipped PNG": (encoded("PNG")[:60] + b"\xff" * 20 + encoded("PNG")[80:], "not a readable image"),
    "half a JPEG": (encoded("JPEG")[: len(encoded("JPEG")) // 2], "not a readable image"),
    "half a GIF": (encoded("GIF", PIXELS[..., 0])[:20], "not a readable image"),
    "half a BMP": (encoded("BMP")[:100], "not a readable image"),
    "half a TIFF": (encoded("TIFF")[:60], "not a readable image"),
    "half a WebP": (encoded("WEBP")[:30], "not a readable image"),
    "PNG of no pixels": (of_size(0, 8), "not a readable image"),
    "PNG of too many pixels": (of_size(60_000, 60_000), "not a readable image"),
    "numbers of 32 bits": (encoded("TIFF", PIXELS[..., 0].astype(np.int32)), "32-bit numbers"),
    "fractions": (encoded("TIFF", PIXELS[..., 0].astype(np.float32)), "32-bit numbers"),
}


@pytest.fixture
def folder(tmp_path):
    for place in ("train/cat/1", "train/cat/2", "train/dog/1", "test/cat/1", "test/dog/1"):
        path = tmp_path / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded("PNG"))
    return tmp_path


def refused(folder, words, place):
    with pytest.raises(ConfigError, match=words) as error:
        load_images("folder", directory=folder, cache=folder, image_size=4, channels=3)
    assert "\n" not in str(error.value)
    assert str(folder / place) in str(error.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_folder_is_right_before_it_is_made_wrong(folder, channels):
    images = load_images("folder", directory=folder, cache=folder, image_size=4, channels=channels)
    assert images.train_labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("place", ["train/cat/2.png", "test/dog/1.png"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_image_is_named_in_one_line(folder, name, place):
    content, words = FILES[name]
    (folder / place).write_bytes(content)
    refused(folder, words, place)


def remove(folder, place):
    shutil.rmtree(folder / place)


def replace(folder, place, make):
    (folder / place).unlink()
    make(folder / place)


#: What is done to the folder, what is said, and of which place.
PLACES = {
    "no train": (lambda at: remove(at, "train"), "wanted a folder train", ""),
    "no test": (lambda at: remove(at, "test"), "wanted a folder test or val", ""),
    "train is a file": (
        lambda at: (remove(at, "train"), (at / "train").write_text("")), "wanted a folder train", ""),
    "no class": (lambda at: (remove(at, "train/cat"), remove(at, "train/dog")), "found none", "train"),
    "one class": (lambda at: remove(at, "train/dog"), "two classes or more, found only cat", "train"),
    "a class to test on alone": (
        lambda at: shutil.copytree(at / "test/cat", at / "test/bird"), "is a class that", "test/bird"),
    "an empty class": (lambda at: (at / "train/ant").mkdir(), "holds no image", "train/ant"),
    "nothing to test on": (
        lambda at: [replace(at, f"test/{kind}/1.png", lambda _: None) for kind in ("cat", "dog")],
        "holds no image", "test"),
    "a folder in a class": (
        lambda at: replace(at, "train/cat/1.png", lambda path: path.mkdir()), "is a folder", "train/cat/1.png"),
    "an image of no class": (
        lambda at: shutil.copy(at / "test/cat/1.png", at / "train/1.png"), "lies beside the folders of the classes",
        "train/1.png"),
    "a dead link": (
        lambda at: replace(at, "train/cat/1.png", lambda path: path.symlink_to("gone")), "is a link to gone",
        "train/cat/1.png"),
    "a pipe": (lambda at: replace(at, "train/cat/1.png", os.mkfifo), "is a pipe", "train/cat/1.png"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_a_folder_that_is_not_sorted_by_class_is_told_in_one_line(folder, name):
    change, words, place = PLACES[name]
    change(folder)
    refused(folder, words, place)
