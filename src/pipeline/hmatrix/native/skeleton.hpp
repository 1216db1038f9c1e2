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

// Rows of a matrix M (any number, n), seen in portions and never held together.
//
// By default only the Gram matrix M^H M is kept: cheap, and exact down to a relative residual of about 1e-7.
// `orthogonal` keeps the triangular factor of M instead, for tolerances below that.
template <class C>
class Rows {
  public:
    Rows(int n, bool orthogonal) : n_(n), orthogonal_(orthogonal), gram_(static_cast<size_t>(n) * n) {}

    // Adds rows (m, n), column-major with leading dimension m.
    void add(const C* rows, int m);

    // Chooses skeletons until the squared Frobenius norm of what is left is at most `budget`.
    // Column j counts with weight `scale[j]` (none: 1).
    Interpolation<C> interpolate(double budget, const double* scale);

  private:
    void reduce();
    Interpolation<C> by_gram(double budget, const double* scale);
    Interpolation<C> by_qr(double budget, const double* scale);

    int n_;
    bool orthogonal_;
    std::vector<C> gram_;
    std::vector<C> kept_;  // (count_, n), row-major, in the orthogonal way
    int count_ = 0;
};

}  // namespace hmatrix
