import numpy as np
import pytest
from PIL import Image

from pipeline.data import load_images
from pipeline.errors import ConfigError


def write(path, value, size=(9, 7), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train/cat/b.png", (200, 0, 0))
    write(tmp_path / "train/cat/a.png", (100, 0, 0))
    write(tmp_path / "train/dog/1.png", 50, mode="L")
    write(tmp_path / "train/dog/2.png", (0, 0, 7, 255), mode="RGBA")
    write(tmp_path / "val/dog/x.bmp", (1, 2, 3), size=(40, 90))
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "train/dog" / name).write_text("left out")
    return tmp_path


def load(folder, image_size=5, channels=3):
    return load_images("folder", directory=folder, cache=folder, image_size=image_size, channels=channels)


def test_classes_and_files_come_in_the_order_of_their_names(folder):
    images = load(folder)
    assert images.classes == ["cat", "dog"]
    assert images.train_labels.tolist() == [0, 0, 1, 1]
    assert images.test_labels.tolist() == [1]
    assert images.train_images.shape == (4, 3, 5, 5)
    assert images.train_images.dtype == np.uint8
    # One color each: scaling leaves it; gray is the same in all channels.
    assert images.train_images[:, :, 2, 2].tolist() == [[100, 0, 0], [200, 0, 0], [50, 50, 50], [0, 0, 7]]
    assert images.test_images[0, :, 0, 0].tolist() == [1, 2, 3]


def test_gray_images_have_no_channels(folder):
    images = load(folder, image_size=6, channels=1)
    assert images.train_images.shape == (4, 6, 6)
    assert images.train_images[2, 3, 3] == 50


def test_of_16_bits_a_pixel_the_upper_8_are_kept(folder):
    pixels = np.full((5, 5), 65535, np.uint16)
    pixels[:, 2] = 300
    Image.fromarray(pixels).save(folder / "train/cat/a.png")
    for channels in (1, 3):
        read = load(folder, channels=channels).train_images[0]
        assert (read[..., 2] == 300 >> 8).all()
        assert (read[..., [0, 1, 3, 4]] == 255).all()


def test_the_largest_centered_square_is_kept(folder):
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = 9
    Image.fromarray(pixels).save(folder / "train/cat/a.png")
    assert (load(folder, image_size=4, channels=1).train_images[0] == 9).all()


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_unreadable_file_is_named(folder, content):
    path = folder / "train/dog/1.png"
    path.write_bytes(content if content is not None else path.read_bytes()[:40])
    with pytest.raises(
        ConfigError, match=r"train/dog/1\.png is not a readable image .*remove or replace it"
    ) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_missing_parts_and_classes_are_named(folder):
    with pytest.raises(ConfigError, match="the data set folder needs the option directory; add it"):
        load(None)
    with pytest.raises(ConfigError, match=r"wanted a folder train in .*nowhere"):
        load(folder / "nowhere")
    write(folder / "val/bird/1.png", 1)
    with pytest.raises(ConfigError, match=r"val/bird is a class that .*train lacks"):
        load(folder)
    (folder / "train/bird").mkdir()
    with pytest.raises(ConfigError, match=r"train/bird holds no image"):
        load(folder)
