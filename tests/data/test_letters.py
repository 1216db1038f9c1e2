from pathlib import Path

import matplotlib
import numpy as np
import pytest

from pipeline.data import letters
from pipeline.data.letters import CLASSES, FACES, Letters
from pipeline.errors import ConfigError

FOLDER = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture
def few(monkeypatch):
    """Two images of each class to train on and one to test on."""
    monkeypatch.setattr(Letters, "N_TRAIN", 2 * len(CLASSES))
    monkeypatch.setattr(Letters, "N_TEST", len(CLASSES))


def test_every_class_has_equal_numbers_of_gray_images(few, tmp_path):
    images = Letters().load(tmp_path)
    assert images.train_images.shape == (124, 28, 28)
    assert images.test_images.shape == (62, 28, 28)
    assert images.train_images.dtype == np.uint8
    assert images.classes == [*"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"]
    for labels, each in ((images.train_labels, 2), (images.test_labels, 1)):
        assert labels.dtype == np.int64
        assert np.array_equal(np.bincount(labels), np.full(62, each))
    assert images.source == "digits and letters in 21 typefaces of matplotlib"
    assert not list(tmp_path.iterdir())


def test_the_same_images_are_drawn_again_and_none_twice(few, tmp_path):
    first, second = (Letters().load(tmp_path) for _ in range(2))
    assert np.array_equal(first.train_images, second.train_images)
    assert np.array_equal(first.test_images, second.test_images)
    together = np.concatenate([first.train_images, first.test_images]).reshape(186, -1)
    assert len(np.unique(together, axis=0)) == 186


def test_all_ink_of_a_glyph_that_is_not_changed_is_in_its_image_and_a_capital_is_in_the_middle():
    glyph = letters._glyph(FOLDER / "DejaVuSans.ttf", "H")
    image = letters._distorted(glyph, 0, 0, 0, 0, 0).astype(float)
    # The image is sampled four times as coarsely in each direction, of a glyph with smooth edges.
    assert image.sum() * 16 == pytest.approx(glyph.sum(dtype=float), rel=0.01)
    rows, columns = np.indices(image.shape)
    for places in (rows, columns):
        assert float((places * image).sum() / image.sum()) == pytest.approx(13.5, abs=0.5)


@pytest.mark.parametrize(
    ("change", "direction"), [((0, 0, 0, 3, 0), (0, 1)), ((0, 0, 0, 0, -3), (-1, 0))], ids=["right", "up"]
)
def test_a_shift_moves_the_ink_by_its_share_of_the_width(change, direction):
    glyph = letters._glyph(FOLDER / "DejaVuSans.ttf", "x")
    still, moved = (letters._distorted(glyph, *by).astype(float) for by in ((0, 0, 0, 0, 0), change))
    rows, columns = np.indices(still.shape)
    found = [
        float((places * moved).sum() / moved.sum() - (places * still).sum() / still.sum())
        for places in (rows, columns)
    ]
    assert found == pytest.approx([3 * 0.05 * 28 * d for d in direction], abs=0.1)


def test_a_small_letter_is_smaller_than_its_capital():
    heights = {}
    for letter in "oO":
        drawn = letters._glyph(FOLDER / "cmss10.ttf", letter)
        heights[letter] = np.count_nonzero(drawn.any(axis=1))
    assert heights["o"] < 0.8 * heights["O"]


def test_every_face_has_every_letter():
    for name in FACES:
        drawn = [letters._glyph(FOLDER / f"{name}.ttf", letter) for letter in CLASSES]
        # A face without a letter draws the same box for each that it lacks.
        different = {image.tobytes() for image in drawn}
        assert len(different) >= len(CLASSES) - 2, name


def test_the_faces_of_a_folder_are_drawn_instead(few, tmp_path):
    (tmp_path / "one.ttf").write_bytes((FOLDER / "DejaVuSerif.ttf").read_bytes())
    (tmp_path / "readme.txt").write_text("not a face")
    images = Letters(directory=tmp_path).load(tmp_path)
    assert images.source == f"digits and letters in 1 typefaces of {tmp_path}"


def test_folders_without_faces_and_files_that_are_none_are_refused(few, tmp_path):
    with pytest.raises(
        ConfigError, match=r"dataset\.directory: wanted \.ttf or \.otf files in .*, found none"
    ):
        Letters(directory=tmp_path).load(tmp_path)
    (tmp_path / "bad.otf").write_bytes(b"no face")
    with pytest.raises(ConfigError, match=r"bad\.otf: not a typeface that can be read"):
        Letters(directory=tmp_path).load(tmp_path)


def test_a_face_without_a_letter_is_refused(few, tmp_path):
    (tmp_path / "symbols.ttf").write_bytes((FOLDER / "STIXSizFiveSymReg.ttf").read_bytes())
    with pytest.raises(ConfigError, match=r"symbols\.ttf: has no letter '0'; leave this typeface out"):
        Letters(directory=tmp_path).load(tmp_path)
