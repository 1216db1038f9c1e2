import pytest

from pipeline.data import load_images, load_points
from pipeline.errors import ConfigError


def test_images_load_by_name(tiny_fashion, tmp_path):
    assert load_images("digits", directory=None, cache=tmp_path).train_images.shape == (1437, 8, 8)
    fashion = load_images("fashion_mnist", directory=tiny_fashion, cache=tmp_path)
    assert fashion.train_images.shape == (7, 28, 28)


def test_an_unknown_data_set_names_the_nearest_known_one(tmp_path):
    with pytest.raises(ConfigError, match="unknown data set 'fashion-mnist'; did you mean fashion_mnist"):
        load_images("fashion-mnist", directory=None, cache=tmp_path)


def test_an_option_of_another_data_set_is_refused_rather_than_ignored(tmp_path):
    with pytest.raises(
        ConfigError, match="unknown option of the data set digits 'directory'; known are none"
    ):
        load_images("digits", directory=tmp_path, cache=tmp_path)


def test_an_unknown_point_set_like_no_other_lists_the_known_ones():
    with pytest.raises(ConfigError, match="unknown point set 'q'; known are airports, cities, cube"):
        load_points("q")


def test_an_unknown_option_names_the_nearest_known_one():
    with pytest.raises(ConfigError, match=r"unknown option of the point set airports 'points'.*n_points"):
        load_points("airports", points=10)


def test_a_missing_option_is_named():
    with pytest.raises(ConfigError, match="the point set sphere needs the option n_points"):
        load_points("sphere")
