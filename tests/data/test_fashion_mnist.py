import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import fashion_mnist
from pipeline.data.fashion_mnist import FashionMnist
from pipeline.errors import ConfigError

CACHE = Path(os.environ.get("PARSIMONY_DATA", Path(__file__).parents[2] / ".data"))


def refuse(*_arguments):
    raise ConfigError("no network")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_given_directory_is_read(tiny_fashion, tmp_path):
    images = FashionMnist(directory=tiny_fashion).load(tmp_path / "cache")
    assert images.train_images.shape == (7, 28, 28)
    assert images.test_images.shape == (3, 28, 28)
    assert images.train_labels.shape == (7,)
    assert images.test_labels.dtype == np.int64
    assert len(images.classes) == 10
    assert str(tiny_fashion) in images.source
    assert not (tmp_path / "cache").exists()


def test_uncompressed_files_are_read_as_well(tiny_fashion, tmp_path, write_idx):
    before = FashionMnist(directory=tiny_fashion).load(tmp_path)
    (tiny_fashion / "train-labels-idx1-ubyte.gz").unlink()
    write_idx(tiny_fashion / "train-labels-idx1-ubyte", before.train_labels, compress=False)
    after = FashionMnist(directory=tiny_fashion).load(tmp_path)
    np.testing.assert_array_equal(after.train_labels, before.train_labels)


def test_a_given_directory_without_the_files_is_not_replaced_by_another(tmp_path):
    with pytest.raises(ConfigError, match=r"wanted train-images-idx3-ubyte.gz .* found neither"):
        FashionMnist(directory=tmp_path).load(tmp_path)


def test_an_altered_file_is_named(tiny_fashion, tmp_path, write_idx):
    write_idx(tiny_fashion / "t10k-labels-idx1-ubyte.gz", np.zeros(3))
    with pytest.raises(ConfigError, match=r"t10k-labels-idx1-ubyte.gz: the content has the sha256"):
        FashionMnist(directory=tiny_fashion).load(tmp_path)


def test_installed_files_are_preferred_to_the_cache(tiny_fashion, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tiny_fashion)
    assert str(tiny_fashion) in FashionMnist().load(tmp_path / "cache").source
    assert not (tmp_path / "cache").exists()


def test_the_debian_package_fills_the_cache_once(tiny_fashion, tmp_path, monkeypatch):
    calls = []

    def unpack(package, folder):
        calls.append(package)
        shutil.copytree(tiny_fashion, folder / "usr/share/datasets/fashion-mnist")

    monkeypatch.setattr(fashion_mnist, "unpack_debian_package", unpack)
    cache = tmp_path / "not" / "there yet"
    first = FashionMnist().load(cache)
    second = FashionMnist().load(cache)
    assert calls == ["dataset-fashion-mnist"]
    assert first.source == second.source
    np.testing.assert_array_equal(first.train_images, second.train_images)
    assert names(cache) == ["fashion-mnist"]
    assert names(cache / "fashion-mnist") == names(tiny_fashion)


def test_upstream_is_asked_where_there_is_no_debian_package(tiny_fashion, tmp_path, monkeypatch):
    def download(url, path):
        assert url.startswith("https://")
        shutil.copy(tiny_fashion / url.rpartition("/")[2], path)

    monkeypatch.setattr(fashion_mnist, "unpack_debian_package", refuse)
    monkeypatch.setattr(fashion_mnist, "download", download)
    assert FashionMnist().load(tmp_path / "cache").train_images.shape == (7, 28, 28)


def test_what_comes_altered_from_outside_never_reaches_the_cache(
    tiny_fashion, tmp_path, monkeypatch, write_idx
):
    write_idx(tiny_fashion / "train-labels-idx1-ubyte.gz", np.zeros(7))
    monkeypatch.setattr(fashion_mnist, "unpack_debian_package", refuse)
    monkeypatch.setattr(
        fashion_mnist, "download", lambda url, path: shutil.copy(tiny_fashion / url.rpartition("/")[2], path)
    )
    with pytest.raises(ConfigError, match=r"train-labels-idx1-ubyte.gz: the content has the sha256"):
        FashionMnist().load(tmp_path / "cache")
    assert names(tmp_path / "cache" / "fashion-mnist") == []
    assert names(tmp_path / "cache") == ["fashion-mnist"]


def test_without_files_and_network_one_line_names_what_to_install(tiny_fashion, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "unpack_debian_package", refuse)
    monkeypatch.setattr(fashion_mnist, "download", refuse)
    with pytest.raises(ConfigError) as caught:
        FashionMnist().load(tmp_path / "cache")
    message = str(caught.value)
    assert "apt-get install dataset-fashion-mnist" in message
    assert "dataset.directory" in message
    assert message.count("no network") == 2
    assert "\n" not in message


def test_a_cache_that_cannot_be_written_is_named(tiny_fashion, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(ConfigError, match=r"cannot be written to the cache .*fashion-mnist: Not a directory"):
        FashionMnist().load(tmp_path / "cache")


def test_a_full_disk_leaves_the_cache_without_part_of_a_file(tiny_fashion, tmp_path, monkeypatch):
    def unpack(_package, folder):
        (folder / "part").write_bytes(b"x")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(fashion_mnist, "unpack_debian_package", unpack)
    with pytest.raises(ConfigError, match="No space left on device"):
        FashionMnist().load(tmp_path / "cache")
    assert names(tmp_path / "cache" / "fashion-mnist") == []


def test_two_runs_at_once_fill_the_cache_together(tiny_fashion, tmp_path, monkeypatch):
    together = threading.Barrier(2)

    def unpack(_package, folder):
        shutil.copytree(tiny_fashion, folder / "usr/share/datasets/fashion-mnist")
        together.wait(timeout=30)

    monkeypatch.setattr(fashion_mnist, "unpack_debian_package", unpack)
    loaded = []
    threads = [
        threading.Thread(target=lambda: loaded.append(FashionMnist().load(tmp_path / "cache")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [images.train_images.shape for images in loaded] == [(7, 28, 28)] * 2
    assert names(tmp_path / "cache") == ["fashion-mnist"]


def test_the_real_images_are_what_they_are_known_to_be():
    if not fashion_mnist.INSTALLED.exists() and not (CACHE / "fashion-mnist").exists():
        pytest.skip("Fashion-MNIST is neither installed nor in the cache, and tests download nothing")
    images = FashionMnist().load(CACHE)
    assert images.train_images.shape == (FashionMnist.N_TRAIN, 28, 28)
    assert images.test_images.shape == (10000, 28, 28)
    np.testing.assert_array_equal(np.bincount(images.train_labels), [6000] * 10)
    np.testing.assert_array_equal(np.bincount(images.test_labels), [1000] * 10)
    assert images.train_images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
