from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.runtime.communicator import run_in_threads
from pipeline.training import AUGMENTATIONS, Recipe, train
from pipeline.training.augmentation import Crop, Erasing, Flip
from pipeline.training.optimizers import SGD

CASES = {"crop": Crop(2), "flip": Flip(), "erasing": Erasing(0.7)}
SHAPES = [(0, 1, 4, 4), (1, 1, 1, 1), (5, 3, 7, 4), (33, 1, 8, 8)]


def images(shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def change(augmentation, x, seed=0):
    return augmentation.change(x, np.random.default_rng(seed))


def test_every_augmentation_has_a_case():
    assert set(CASES) == set(AUGMENTATIONS)
    assert all(isinstance(case, AUGMENTATIONS[name]) for name, case in CASES.items())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(CASES))
def test_the_shape_stays_and_so_do_the_originals(name, shape):
    x = images(shape)
    before = x.clone()
    changed = change(CASES[name], x)
    assert changed.shape == x.shape
    assert torch.equal(x, before)
    assert torch.equal(changed, change(CASES[name], x))


def test_a_crop_is_a_shift_of_the_padded_image():
    x = images((20, 2, 6, 5)) + 0.1
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), value=float(x.min()))
    for image, whole in zip(change(Crop(2), x), padded, strict=True):
        shifts = [whole[:, i : i + 6, j : j + 5] for i in range(5) for j in range(5)]
        assert any(torch.equal(image, shift) for shift in shifts)


def test_half_of_all_images_are_mirrored():
    x = images((400, 1, 2, 3))
    changed = change(Flip(), x)
    mirrored = (changed == x.flip(3)).flatten(1).all(1)
    same = (changed == x).flatten(1).all(1)
    assert (mirrored ^ same).all()
    # The number of 400 tosses has the deviation 10.
    assert abs(int(mirrored.sum()) - 200) < 50


def test_erasing_changes_one_rectangle_of_bounded_area():
    x = images((60, 1, 20, 20))
    changed = change(Erasing(1.0, 0.25), x) != x
    for mask in changed[:, 0]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        h, w = (int(found.max() - found.min()) + 1 for found in (rows, columns))
        assert int(mask.sum()) == h * w
        # Rounding of either side adds half a pixel at most.
        assert h * w <= (0.25 * 400) + 0.5 * (h + w) + 1


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_number_of_processes_does_not_matter(name, small_network, weights, training, validation):
    recipe = Recipe(SGD(lr=0.05), batch_size=20, epochs=2, micro_batch=5, augmentation=(CASES[name],))

    def work(communicator=None):
        model = small_network()
        train(model, recipe, training, validation, seed=3, communicator=communicator)
        return weights(model)

    alone = work()
    for found in run_in_threads(3, work):
        assert (found - alone).norm() <= 1e-5 * alone.norm()
    plain = small_network()
    train(plain, replace(recipe, augmentation=()), training, validation, seed=3)
    assert not torch.equal(weights(plain), alone)
