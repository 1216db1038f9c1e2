// The interpolative decomposition of a box's far field.
#pragma once

#include <vector>

#include "blas.hpp"

namespace hmatrix {

// Columns expressed through `rank` of them: M[:, order[rank:]] ~ M[:, order[:rank]] T.
template <class C>
struct Interpolation {
    int rank = 0;
    std::vector<int> order;  // skeletons first
    std::vector<C> T;        // (rank, n - rank), row-major
};

// Rows of a matrix M (any number, n), seen in portions.
//
// Skeletons are the pivots of a Cholesky factorization of the Gram matrix M^H M: products of large matrices, where a QR
// decomposition of M would go column by column. The Gram matrix knows the squared residual to about 1e-15 of its trace
// only; where less is asked for, the residual is formed explicitly, and its own Gram matrix carries on: each stage gains
// as many digits again, down to those of M itself.
template <class C>
class Rows {
  public:
    explicit Rows(int n) : n_(n), gram_(static_cast<size_t>(n) * n) {}

    // Adds rows (m, n), column-major with leading dimension m.
    void add(const C* rows, int m);

    // Chooses skeletons until the squared Frobenius norm of what is left is at most `budget`.
    // Column j counts with weight `scale[j]` (none: 1).
    Interpolation<C> interpolate(double budget, const double* scale) const;

  private:
    struct Portion {
        int m;
        std::vector<C> values;  // (m, n), column-major
    };

    int n_;
    std::vector<C> gram_;  // lower triangle
    std::vector<Portion> portions_;
};

}  // namespace hmatrix
