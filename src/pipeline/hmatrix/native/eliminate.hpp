// Strong recursive skeletonization: a matrix factorized box by box, in near-linear time.
#pragma once

#include "evaluator.hpp"
#include "precision.hpp"
#include "tree.hpp"

namespace hmatrix {

enum Kind : int { Cholesky = 0, Symmetric = 1, General = 2 };

struct EliminationOptions {
    Kind kind;
    double budget;    // squared Frobenius norm that one box may lose
    double rows;      // far points sampled for a box, at first
    int first_level;  // the uppermost level with far pairs; above it everything is dense
    int stop;         // unknowns that are left to one dense factorization
    nb::object progress;  // called with boxes done and in all, or None
};

// Factorizes k(points, points) + diag(diagonal), computing in C and storing S.
//
// Returns (levels, failure): for each level, leaves first and the dense end last, a tuple
// (counts (steps, 3), index, values, pivots, logarithms (sign or phase, log|det|), table (boxes, unknowns, skeletons),
// seconds); `failure` is None, or (level, point, pivot) where a pivot is not positive (Cholesky) or vanishes.
//
// One step eliminates the redundant unknowns D of a box, given its skeletons S and neighbors N = S and active unknowns
// of near boxes. Its `counts` are |D|, |S|, |N|; `index` holds D then N (S first); `values` holds, all column-major,
//   T^T (|D|, |S|); the factor of the block of D: packed lower Cholesky, else its LU (|D|, |D|); W (|N|, |D|), and for
//   General also V (|N|, |D|). Cholesky X = L L^T: W = A_ND L^-T. Else W = A_ND X^-1 and V^T = X^-1 A_DN, V = W if
//   symmetric.
template <class C, class S>
nb::tuple eliminate(const KernelMatrix& matrix, const Tree& tree, In<int64_t> near_start, In<int> near_boxes,
                    In<int64_t> far_start, In<int> far_boxes, In<Wide<C>> diagonal, const EliminationOptions& options);

}  // namespace hmatrix
