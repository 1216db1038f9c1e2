// What a factorization does to vectors.
#pragma once

#include "eliminate.hpp"

namespace hmatrix {

// Steps of one part in one phase, as `Part::eliminate` returned them.
template <class S>
struct LevelView {
    In<int> counts, index;
    In<S> values;
    In<int> pivots;
};

enum Sweep : int {
    Forward = 0,           // the first half of A^-1 x: step after step
    Backward = 1,          // the second half: in reverse
    ForwardTransposed = 2,  // the same of A^-T x
    BackwardTransposed = 3,
    MultiplyRoot = 4,  // L x with A = L L^T, in reverse: Cholesky only
    MultiplyRootTransposed = 5,  // L^T x, step after step
};

// Changes x (n, m), flat and row-major, by one sweep over steps; `index` says which rows of x they act on.
template <class S>
void sweep(const std::vector<LevelView<S>>& steps, Kind kind, Sweep way, Wide<S>* x, int m);

}  // namespace hmatrix
