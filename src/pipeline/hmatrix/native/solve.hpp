// What a factorization does to vectors.
#pragma once

#include "eliminate.hpp"

namespace hmatrix {

// One level of steps, as `eliminate` returned it.
template <class S>
struct LevelView {
    In<int> counts, index;
    In<S> values;
    In<int> pivots;
};

enum Action : int {
    Solve = 0,            // A^-1 x
    SolveTransposed = 1,  // A^-T x
    MultiplyRoot = 2,     // L x with A = L L^T: Cholesky only
};

// Returns the action on x (n, m), flat and row-major, in tree order.
template <class S>
Out<Wide<S>> act(const std::vector<LevelView<S>>& levels, Kind kind, Action action, In<Wide<S>> x, int m);

}  // namespace hmatrix
