"""Places on the globe as points of the unit sphere."""

import numpy as np
from numpy.typing import NDArray


def unit_vectors(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn degrees of latitude and longitude, each of shape (n,), into unit vectors of shape (n, 3).

    The Earth is taken as a sphere. The axes point to (0, 0), to 90 degrees east and to the north pole.
    Distances between the vectors are chords; a chord c spans the angle 2 arcsin(c / 2), so kernels that are
    positive definite in space stay so on the sphere.
    """
    phi, lam = np.radians(latitude), np.radians(longitude)
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=1)
