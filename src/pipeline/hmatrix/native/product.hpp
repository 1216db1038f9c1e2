// The product of an H2 matrix with a block of vectors.
#pragma once

#include "arrays.hpp"
#include "precision.hpp"
#include "tree.hpp"

namespace hmatrix {

// Nested interpolative bases of all boxes. For box b, with its local unknowns (points of a leaf, children's skeletons
// otherwise) in the order order[order_start[b]...], coefficients are x[:k] + T x[k:], T (k, n - k) row-major.
template <class S>
struct Basis {
    In<int> rank;                // (boxes,)
    In<int64_t> skeleton_start;  // (boxes + 1,): prefix sums of the ranks
    In<int64_t> order_start;     // (boxes + 1,)
    In<int> order;
    In<int64_t> value_start;  // (boxes + 1,)
    In<S> values;             // all T
};

// Dense blocks of pairs of boxes, each column-major.
template <class S>
struct Blocks {
    In<int> first, second;  // (pairs,): box of the rows, box of the columns
    In<int64_t> start;      // (pairs + 1,)
    In<S> values;
};

// Returns A x or A^T x in tree order, flat and row-major (rows, m), as x is. `mirrored`: pairs (b, c) with b != c stand
// for (c, b) as well, transposed.
template <class S>
Out<Wide<S>> product(const Tree& row_tree, const Tree& column_tree, const Basis<S>& row_basis,
                     const Basis<S>& column_basis, const Blocks<S>& near, const Blocks<S>& far, bool mirrored,
                     bool transposed, In<Wide<S>> x, int m);

}  // namespace hmatrix
