// The k-d ordering of points.
#pragma once

#include "arrays.hpp"

namespace hmatrix {

// Orders points (n, d) so that `depth` rounds of halving (first half the larger by at most one) at the median of the
// widest coordinate give contiguous ranges, the same for any number of threads. Costs O(n d depth).
Out<int> bisect(In2<double> points, int depth, int threads);

}  // namespace hmatrix
