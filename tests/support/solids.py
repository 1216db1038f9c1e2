"""Closed surfaces of very few triangles."""

import numpy as np

#: Corners on the unit sphere and four triangles whose normals point outwards.
TETRAHEDRON = (
    np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3),
    np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]),
)
