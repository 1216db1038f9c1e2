// Nested bases and blocks of an H2 matrix.
#pragma once

#include "evaluator.hpp"
#include "tree.hpp"

namespace hmatrix {

struct BasisOptions {
    bool transposed;  // basis of the rows (targets) rather than of the columns (sources)
    double budget;    // squared Frobenius norm that one box may lose
    double rows;      // far points sampled for a box, at first
    int largest_box;  // gives up when a box has more unknowns
    In<double> energy;  // of each point of `own`, or empty for 1: how much of a white-noise vector it carries
    nb::object progress;  // called with boxes done and in all, or None
    int threads;          // among which boxes are divided; a matrix that calls Python has one
};

// Chooses skeletons of every box from the leaves up. Returns, each flat with one list per box: rank (boxes,), skeletons
// (points), local order (skeletons first), T; seconds per level, the most unknowns that a box had, and the skeletons'
// energy.
template <class C>
nb::tuple build_basis(const KernelMatrix& matrix, const Tree& own, const Tree& other, In<int64_t> far_start,
                      In<int> far_boxes, const BasisOptions& options);

// Evaluates kernel blocks (rows list first[p]) x (columns list second[p]) for every pair into one flat array, each
// column-major, on several threads unless Python is called. S is the type kept.
template <class C, class S>
nb::ndarray<nb::numpy, S, nb::ndim<1>> evaluate_blocks(const KernelMatrix& matrix, In<int64_t> row_start, In<int> rows,
                                                       In<int64_t> column_start, In<int> columns, In<int> first,
                                                       In<int> second, int threads);

}  // namespace hmatrix
