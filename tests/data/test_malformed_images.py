"""Twenty malformed files of images in each format: one line each, with the file and the array."""

import gzip
import io
import zipfile

import netCDF4
import numpy as np
import pytest

from pipeline.data import load_images
from pipeline.errors import ConfigError

GRAY = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
GOOD = {
    "train_images": GRAY, "train_labels": np.arange(5) % 3, "test_images": GRAY[:2], "test_labels": np.arange(2),
}  # fmt: skip


def write_npz(path, arrays):
    np.savez(path, **arrays)


def write_hdf5(path, arrays):
    with netCDF4.Dataset(path, "w") as file:
        for name, values in arrays.items():
            values = np.asarray(values)
            for axis, size in enumerate(values.shape):
                file.createDimension(f"{name}_{axis}", size)
            kind = str if values.dtype.kind == "U" else values.dtype
            variable = file.createVariable(name, kind, [f"{name}_{axis}" for axis in range(values.ndim)])
            if values.size:
                variable[...] = values.astype(object) if kind is str else values


WRITERS = {".npz": write_npz, ".h5": write_hdf5}


def load(path):
    return load_images("arrays", directory=None, cache=path.parent, path=path)


@pytest.mark.parametrize("ending", WRITERS)
def test_arrays_of_a_file_are_read_as_they_were_written(tmp_path, ending):
    WRITERS[ending](tmp_path / f"a{ending}", GOOD | {"classes": np.array(["a", "b", "é"])})
    own = load(tmp_path / f"a{ending}")
    for name, values in GOOD.items():
        np.testing.assert_array_equal(getattr(own, name), values)
    assert own.classes == ["a", "b", "é"]


#: What is wrong with the arrays of a file of either format.
ARRAYS = [
    ({"train_images": None}, "has no array 'train_images', found "),
    ({"train_labels": None}, "has no array 'train_labels'"),
    ({"test_images": None}, "has no array 'test_images'"),
    ({"test_labels": None}, "has no array 'test_labels'"),
    (dict.fromkeys(GOOD), "has no array 'train_images', found none"),
    ({"train_images": GRAY / 255}, r"train_images holds float64 of shape \(5, 6, 7\); wanted uint8"),
    ({"test_images": GRAY[:2].astype(np.int16)}, "test_images holds int16"),
    ({"train_images": GRAY[0]}, r"train_images holds uint8 of shape \(6, 7\)"),
    ({"train_images": np.zeros((5, 2, 6, 7), np.uint8)}, r"of shape \(5, 2, 6, 7\)"),
    ({"train_images": GRAY[:, :0]}, r"of shape \(5, 0, 7\)"),
    ({"test_images": GRAY[:0], "test_labels": np.zeros(0, int)}, r"test_images holds uint8 of shape \(0, 6, 7\)"),
    ({"test_images": GRAY[:2, :5]}, "differ in size or channels"),
    ({"test_images": np.zeros((2, 3, 6, 7), np.uint8)}, "differ in size or channels"),
    ({"train_labels": np.zeros(4, int)}, r"train_labels holds int64 of shape \(4,\); wanted whole numbers of shape"),
    ({"train_labels": np.zeros((5, 1), int)}, r"train_labels holds int64 of shape \(5, 1\)"),
    ({"train_labels": np.zeros(5)}, "train_labels holds float64"),
    ({"test_labels": np.array([0, -1])}, "test_labels, row 2: wanted a class from 0, found -1"),
    ({"test_labels": np.array([0, 10**12])}, "test_labels, row 2: wanted a class below 1,000,000"),
    ({"train_labels": np.zeros(5, int), "test_labels": np.zeros(2, int)}, "has 1 class;"),
    ({"classes": np.array(["a", "b"])}, "classes: labels reach 2, but only 2 classes are named"),
    ({"classes": np.array(["a", "b", "b"])}, "classes: the name 'b' occurs twice"),
    ({"classes": np.arange(3)}, "classes holds int64"),
]  # fmt: skip


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize(("change", "words"), ARRAYS, ids=range(len(ARRAYS)))
def test_arrays_that_do_not_fit_are_one_line(tmp_path, ending, change, words):
    path = tmp_path / f"own{ending}"
    WRITERS[ending](path, {name: values for name, values in (GOOD | change).items() if values is not None})
    refused(path, words)


def refused(path, words):
    with pytest.raises(ConfigError, match=words) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


def bytes_of(ending, tmp_path):
    path = tmp_path / f"good{ending}"
    WRITERS[ending](path, GOOD)
    return path.read_bytes()


DAMAGE = {
    "empty": lambda good: b"",
    "text": lambda good: b"train_images, train_labels\n",
    "cut in half": lambda good: good[: len(good) // 2],
    "without its end": lambda good: good[:-30],
    "without its start": lambda good: good[100:],
    "its first bytes alone": lambda good: good[:8],
    "compressed": gzip.compress,
    "zeros": lambda good: bytes(len(good)),
}


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_line(tmp_path, ending, damage):
    path = tmp_path / f"own{ending}"
    path.write_bytes(DAMAGE[damage](bytes_of(ending, tmp_path)))
    refused(path, "not a readable")


def test_an_array_with_flipped_bytes_in_an_archive_is_one_line(tmp_path):
    content = bytearray(bytes_of(".npz", tmp_path))
    place = content.index(GRAY.tobytes()[:64])
    content[place] ^= 0xFF
    (tmp_path / "own.npz").write_bytes(content)
    refused(tmp_path / "own.npz", "not a readable .npz file")


def test_an_archive_of_other_files_has_none_of_the_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as file:
        file.writestr("train_images.npy", b"no array")
    refused(tmp_path / "own.npz", "own.npz: ")


def test_a_pickled_array_is_refused(tmp_path):
    np.savez(tmp_path / "own.npz", **GOOD | {"train_labels": np.array([{}] * 5, object)})
    refused(tmp_path / "own.npz", "not a readable .npz file")


@pytest.mark.parametrize("name", ["own.mat", "own", "own.npy"])
def test_a_file_of_another_ending_is_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path / name, "wanted a file that ends in .npz, .h5, .hdf5")


@pytest.mark.parametrize("name", ["gone.npz", "gone.h5"])
def test_a_file_that_is_not_there_is_one_line(tmp_path, name):
    refused(tmp_path / name, "there is no such file")


NAMES = {
    "train_images": "train-images-idx3-ubyte", "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte", "test_labels": "t10k-labels-idx1-ubyte",
}  # fmt: skip


def load_idx(folder):
    return load_images("idx", directory=folder, cache=folder)


@pytest.fixture
def folder(tmp_path, write_idx):
    for name, values in GOOD.items():
        write_idx(tmp_path / NAMES[name], values, compress=False)
    return tmp_path


def test_idx_files_of_ones_own_need_no_checksum(folder):
    own = load_idx(folder)
    for name, values in GOOD.items():
        np.testing.assert_array_equal(getattr(own, name), values)
    assert own.classes == ["0", "1", "2"]


def header(*sizes, kind=8):
    return bytes([0, 0, kind, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)


def packed(content, cut=0):
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb") as written:
        written.write(content)
    return file.getvalue()[: len(file.getvalue()) - cut]


IMAGES, LABELS = header(5, 6, 7) + GRAY.tobytes(), header(5) + bytes(5)
IDX = [
    ("train_images", None, "wanted train-images-idx3-ubyte"),
    ("train_labels", None, "wanted train-labels-idx1-ubyte"),
    ("test_images", None, "wanted t10k-images-idx3-ubyte"),
    ("test_labels", None, "wanted t10k-labels-idx1-ubyte"),
    ("train_images", b"", "found an empty file"),
    ("train_images", b"an image", "wanted an IDX file of unsigned bytes in 3 dimensions"),
    ("train_images", LABELS, "in 3 dimensions"),
    ("train_labels", IMAGES, "in 1 dimensions"),
    ("train_images", header(5, 6, 7, kind=13) + bytes(840), "unsigned bytes"),
    ("train_images", header(5, 6, 7)[:9], "wanted a header of 16 bytes, found 9"),
    ("train_images", IMAGES[:-1], "wanted 226 bytes .* found 225"),
    ("train_images", IMAGES + b"\0", "wanted 226 bytes .* found 227"),
    ("train_images", header(2**31, 2**31, 7), "found 16"),
    ("train_images", packed(IMAGES, cut=9), "wanted a whole gzip file"),
    ("train_images", packed(IMAGES)[:20] + b"\xff" * 20, "wanted a whole gzip file"),
    ("train_images", header(0, 6, 7), r"train_images holds uint8 of shape \(0, 6, 7\)"),
    ("train_images", header(5, 0, 7), r"train_images holds uint8 of shape \(5, 0, 7\)"),
    ("test_images", header(2, 6, 6) + bytes(72), "differ in size or channels"),
    ("train_labels", header(4) + bytes(4), r"train_labels holds uint8 of shape \(4,\)"),
    ("test_labels", header(3) + bytes(3), r"test_labels holds uint8 of shape \(3,\)"),
    ("train_labels", header(0), r"train_labels holds uint8 of shape \(0,\)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "words"), IDX, ids=range(len(IDX)))
def test_malformed_idx_files_are_one_line(folder, name, content, words):
    path = folder / NAMES[name]
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as error:
        load_idx(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_idx_files_of_a_single_class_are_one_line(folder):
    for name, n in (("train_labels", 5), ("test_labels", 2)):
        (folder / NAMES[name]).write_bytes(header(n) + bytes(n))
    with pytest.raises(ConfigError, match="has 1 class;"):
        load_idx(folder)
