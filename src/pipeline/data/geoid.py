"""Heights of the geoid above the ellipsoid: a million real values on a regular grid of the globe [1].

They are the grid `egm96_15.gtx` of the PROJ library, in Debian's package `proj-data`: 721 x 1,440 heights from -107 to
85 m, every quarter of a degree. The 1,440 values of a pole lie at one point, so their covariance matrix needs a nugget.

References:
    [1] Lemoine et al., "The development of the joint NASA GSFC and NIMA geopotential model EGM96", NASA 1998.
"""

import hashlib
import logging
import os
import tempfile
from pathlib import Path

import numpy as np

from pipeline.data.fetch import unpack_debian_package
from pipeline.data.globe import unit_vectors
from pipeline.data.points import PointSet, random_subset
from pipeline.errors import ConfigError

logger = logging.getLogger(__name__)

PACKAGE = "proj-data"
FILE = Path("usr/share/proj/egm96_15.gtx")
INSTALLED = Path("/") / FILE
SHA256 = "c02a6eb70a7a78efebe5adf3ade626eb75390e170bb8b3f36136a2c28f5326a0"
HEADER = np.dtype([("south", ">f8"), ("west", ">f8"), ("step", ">f8", 2), ("shape", ">i4", 2)])


def load_geoid(*, n_points: int | None = None, seed: int = 0, cache: Path | None = None) -> PointSet:
    """Load the grid's places as unit vectors with height (m), latitude and longitude (degrees).

    The file is looked for where Debian's package installs it, then in the cache; otherwise the package is fetched and
    unpacked, not installed. The file is always checked against its sha256.

    Args:
        n_points: How many to keep, drawn by `seed`; all 1,038,240 by default.
        seed: Seed of the draw.
        cache: Folder for the file; by default `PARSIMONY_DATA`, or `.data` below the working folder.

    Raises:
        ConfigError: If the file is damaged or cannot be had.
    """
    content = _content(cache or Path(os.environ.get("PARSIMONY_DATA", ".data")))
    header = np.frombuffer(content, HEADER, count=1)[0]
    rows, columns = (int(size) for size in header["shape"])
    heights = np.frombuffer(content, ">f4", count=rows * columns, offset=HEADER.itemsize).astype(np.float64)
    latitude = np.repeat(header["south"] + header["step"][0] * np.arange(rows), columns)
    longitude = np.tile(header["west"] + header["step"][1] * np.arange(columns), rows)
    everything = PointSet(
        points=unit_vectors(latitude, longitude),
        values={"height": heights, "latitude": latitude, "longitude": longitude},
        names=[],
        description="heights of the geoid on a grid of the unit sphere (EGM96)",
        units={"points": "Earth radii", "height": "m", "latitude": "degrees", "longitude": "degrees"},
    )
    return random_subset(everything, n_points=n_points, seed=seed)


def _content(cache: Path) -> bytes:
    cached = cache / FILE.name
    if not INSTALLED.exists() and not cached.exists():
        _fetch(cached)
    path = INSTALLED if INSTALLED.exists() else cached
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ConfigError(
            f"{path} is not EGM96's grid of Debian's {PACKAGE} (sha256 {found[:12]}...); remove it"
        )
    return content


def _fetch(cached: Path) -> None:
    """Unpack the package beside the cached file, and rename the file into place."""
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cached.parent) as folder:
            logger.info("fetching the geoid (6 MB) from Debian's %s", PACKAGE)
            unpack_debian_package(PACKAGE, Path(folder))
            os.replace(Path(folder) / FILE, cached)
    except OSError as failure:
        raise ConfigError(
            f"the geoid cannot be written to {cached}: {failure.strerror}; set PARSIMONY_DATA to a folder with room"
        ) from failure
    except ConfigError as failure:
        raise ConfigError(
            f"the geoid is not on this machine and could not be fetched; run 'apt-get install {PACKAGE}' ({failure})"
        ) from failure
