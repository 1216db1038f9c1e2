"""How combined equations for waves outside of a body weigh their two layers."""

import math

from pipeline.hmatrix.boundary_elements.operators import LayerOperators


def coupling(layers: LayerOperators) -> complex:
    """Return eta, the weight of -i S beside D in combined equations: k, or 1/(2 R) if that is larger.

    With eta = k, the equation tends to that of Laplace's double layer as k approaches 0, which is singular outside of a
    body. Kress recommends max(1/2, k) for the unit sphere [1]. R is the radius of equal spheres, one for each connected
    part, that have the area of the surface. Any eta whose product with k has a positive real part makes the equation
    solvable.

    References:
        [1] Kress, "Minimizing the condition number of boundary integral operators in acoustic and electromagnetic
            scattering", Quarterly Journal of Mechanics and Applied Mathematics 1985.
    """
    k = layers.wavenumber
    radius = math.sqrt(layers.surface.area / (4 * math.pi * layers.surface.n_parts))
    return k if abs(k) >= 1 / (2 * radius) else complex(1 / (2 * radius))
