import gzip
import hashlib

import numpy as np
import pytest

from pipeline.data.idx import read_idx
from pipeline.errors import ConfigError


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (0, 28, 28), (1, 1, 1), (3, 5, 7)])
def test_what_is_written_is_read_back(tmp_path, write_idx, shape, compress):
    values = np.random.default_rng(0).integers(0, 256, size=shape).astype(np.uint8)
    write_idx(tmp_path / "file", values, compress=compress)
    found = read_idx(tmp_path / "file", n_dimensions=len(shape))
    np.testing.assert_array_equal(found, values)
    assert found.dtype == np.uint8
    assert found.flags.writeable


def test_the_right_checksum_is_that_of_the_decompressed_content(tmp_path, write_idx):
    content = write_idx(tmp_path / "file", np.arange(5))
    read_idx(tmp_path / "file", n_dimensions=1, sha256=hashlib.sha256(content).hexdigest())


def complaint(path, **arguments):
    with pytest.raises(ConfigError) as caught:
        read_idx(path, **{"n_dimensions": 1, **arguments})
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_a_wrong_checksum_names_the_file_and_both_sums(tmp_path, write_idx):
    content = write_idx(tmp_path / "file", np.arange(5))
    message = complaint(tmp_path / "file", sha256="0" * 64)
    assert "000000000000" in message
    assert hashlib.sha256(content).hexdigest()[:12] in message


def test_a_missing_file_is_named(tmp_path):
    assert "No such file" in complaint(tmp_path / "absent")


@pytest.mark.parametrize("n_bytes", [2, 10, 30])
def test_a_truncated_gzip_file_is_refused(tmp_path, write_idx, n_bytes):
    path = tmp_path / "file"
    write_idx(path, np.arange(200))
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert f"found {n_bytes} truncated or corrupt bytes" in complaint(path)


def test_a_flipped_bit_in_a_gzip_file_is_refused(tmp_path, write_idx):
    path = tmp_path / "file"
    write_idx(path, np.arange(200))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert "corrupt" in complaint(path)


def test_values_missing_at_the_end_are_counted(tmp_path, write_idx):
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(write_idx(path, np.arange(100))[:-1]))
    message = complaint(path)
    assert "wanted 108 bytes for the shape (100,)" in message
    assert "found 107" in message


def test_a_header_cut_short_is_refused(tmp_path, write_idx):
    path = tmp_path / "file"
    path.write_bytes(write_idx(path, np.arange(100))[:6])
    assert "wanted a header of 8 bytes, found 6" in complaint(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 an archive", bytes([0, 0, 13, 1, 0, 0, 0, 0])])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    message = complaint(path)
    assert "starts with 00 00 08 01" in message
    assert (content[:4].hex(" ") or "an empty file") in message


def test_images_in_place_of_labels_are_refused(tmp_path, write_idx):
    write_idx(tmp_path / "file", np.zeros((2, 3, 4)))
    assert "in 1 dimensions" in complaint(tmp_path / "file")
