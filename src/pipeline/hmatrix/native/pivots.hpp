// Blocks of the diagonal, factorized with an eye on their pivots.
#pragma once

#include <vector>

#include "blas.hpp"
#include "steps.hpp"

namespace hmatrix {

// A pivot that is not positive (Cholesky) or vanishes.
struct BadPivot {
    int point;
    double pivot;
};

// Replaces X (d, d), column-major, by its factor: the lower Cholesky factor, else the LU with `pivots`. Multiplies
// `determinant` (see `Steps`) by that of X. Throws `BadPivot` with the one of `points` that it belongs to.
template <class C>
void factorize_block(Kind kind, int d, std::vector<C>& X, std::vector<int>& pivots, std::vector<double>& determinant,
                     const int* points);

}  // namespace hmatrix
