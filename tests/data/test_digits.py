import numpy as np

from pipeline.data.digits import Digits


def test_the_parts_have_the_known_sizes_and_every_class(tmp_path):
    images = Digits().load(tmp_path)
    assert images.train_images.shape == (1437, 8, 8)
    assert images.test_images.shape == (360, 8, 8)
    assert images.train_images.dtype == np.uint8
    for labels in (images.train_labels, images.test_labels):
        assert labels.dtype == np.int64
        assert np.bincount(labels).min() > len(labels) / 12


def test_the_seventeen_gray_values_stay_apart(tmp_path):
    images = Digits().load(tmp_path)
    values = np.unique(np.concatenate([images.train_images, images.test_images]))
    assert len(values) == 17
    assert values[0] == 0
    assert values[-1] == 255
