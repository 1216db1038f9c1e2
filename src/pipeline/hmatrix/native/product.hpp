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
// for (c, b) as well, transposed. Rows are divided into `parts`, on which the result depends by rounding, among threads.
template <class S>
Out<Wide<S>> product(const Tree& row_tree, const Tree& column_tree, const Basis<S>& row_basis,
                     const Basis<S>& column_basis, const Blocks<S>& near, const Blocks<S>& far, bool mirrored,
                     bool transposed, In<Wide<S>> x, int m, int parts, int threads);

// The steps of a product that is divided among processes; vectors are flat and row-major, (., m).

template <class T>
using InOut = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Writes coefficients of `boxes`, children before parents: box b's (rank, m) at skeleton_start[b]. The points of a leaf
// are rows start[b] ... of x.
template <class S>
void rise(const Tree& tree, const Basis<S>& basis, In<int> boxes, In<Wide<S>> x, InOut<Wide<S>> coefficients, int m);

// Adds what coefficients of `boxes`, parents before children, amount to: to their children's, and the leaves' to y.
template <class S>
void descend(const Tree& tree, const Basis<S>& basis, In<int> boxes, InOut<Wide<S>> coefficients, InOut<Wide<S>> y,
             int m);

// Adds the products of blocks to y: box b takes widths[b] rows of x from taken[b] on, gives heights[b] from given[b] on.
template <class S>
void add_blocks(const Blocks<S>& blocks, bool mirrored, In<int64_t> taken, In<int> widths, In<Wide<S>> x,
                In<int64_t> given, In<int> heights, InOut<Wide<S>> y, int m);

}  // namespace hmatrix
