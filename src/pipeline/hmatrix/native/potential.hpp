// Integrals of 1/|x - y| over pairs of flat triangles.
#pragma once

#include "arrays.hpp"

namespace hmatrix {

// Means over pairs of triangles, (pairs, 9) each: three corners of three coordinates. The integral over one triangle is
// exact, that over the other by a rule of barycentric coordinates (points, 3) and weights that sum to 1; both ways,
// averaged. The formula is that of quadrature.triangle_potential.
Out<double> symmetric_means(In2<double> targets, In2<double> sources, In2<double> coordinates, In<double> weights);

}  // namespace hmatrix
