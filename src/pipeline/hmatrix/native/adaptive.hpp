// The interpolative decomposition of a box's far field from a sample that is checked and, if need be, enlarged.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "skeleton.hpp"
#include "tree.hpp"

namespace hmatrix {

struct Accuracy {
    double budget;  // squared Frobenius norm that the box may lose
    double rows;    // far points sampled, at first
};

// Kept from box to box to spare allocations.
template <class C>
struct AdaptiveScratch {
    FarSample sample, check;
    std::vector<C> rows, kept, dropped;
    std::vector<double> roots;  // of the weights
};

template <class C>
inline double norm2(const C x) {
    return std::norm(x);
}

// Squared Frobenius norm of rows M (m, n), columns weighted by `scale`.
template <class C>
double squared_norm(const double* scale, const C* M, int m, int n) {
    double total = 0;
    for (int j = 0; j < n; ++j) {
        double sum = 0;
        for (int i = 0; i < m; ++i) sum += norm2(M[static_cast<int64_t>(j) * m + i]);
        total += sum * (scale ? scale[j] * scale[j] : 1.0);
    }
    return total;
}

// Squared Frobenius norm of M[:, order[k:]] - M[:, order[:k]] T for rows M (m, n), columns weighted by `scale`.
template <class C>
double lost(const Interpolation<C>& basis, const double* scale, const C* M, int m, int n, AdaptiveScratch<C>& scratch) {
    const int k = basis.rank, d = n - k;
    const auto gather = [&](int first, int count, std::vector<C>& to) {
        to.resize(static_cast<size_t>(m) * count);
        for (int j = 0; j < count; ++j)
            std::copy_n(M + static_cast<int64_t>(basis.order[first + j]) * m, m, to.data() + static_cast<int64_t>(j) * m);
    };
    gather(0, k, scratch.kept);
    gather(k, d, scratch.dropped);
    gemm<C>('N', 'T', m, d, k, C(-1), scratch.kept.data(), m, basis.T.data(), d, C(1), scratch.dropped.data(), m);
    double total = 0;
    for (int j = 0; j < d; ++j) {
        double sum = 0;
        for (int i = 0; i < m; ++i) sum += norm2(scratch.dropped[static_cast<int64_t>(j) * m + i]);
        total += sum * (scale ? scale[basis.order[k + j]] * scale[basis.order[k + j]] : 1.0);
    }
    return total;
}

// Chooses the skeletons of a box of n unknowns whose columns count with weight `scale` (none: 1).
//
// `evaluate(points, way, out)` writes the block of far points and the box's unknowns into out (m, n), for each of
// `ways` matrices that share the basis; `add_exact(rows, factor)` adds further rows, none of them sampled, times
// sqrt(factor), and returns how many. The basis has to serve rows that it was not made from: those of a second sample. Where it does not, or where
// its rank comes near the number of rows, another sample twice as large joins them; in the end the far field is complete.
template <class C, class Evaluate, class AddExact>
Interpolation<C> adaptive_basis(FarSampler& sampler, int box, int n, const double* scale, const Accuracy& accuracy,
                                int ways, AdaptiveScratch<C>& scratch, Evaluate evaluate, AddExact add_exact) {
    constexpr double kCheck = 0.4;    // of the rows, for a check
    constexpr double kAllowed = 3;    // times the budget on fresh rows: those of the sample are fitted
    constexpr double kOversampled = 5;  // rows for each skeleton
    constexpr double kEpsilon = std::numeric_limits<Real<C>>::epsilon();
    constexpr double kRounding = 2e3 * kEpsilon * kEpsilon;  // of the squared norm: no basis does better
    const auto weighted = [&](const FarSample& sample, int way, double factor) {
        const int m = static_cast<int>(sample.points.size());
        scratch.rows.resize(static_cast<size_t>(m) * n);
        evaluate(sample.points, way, scratch.rows.data());
        scratch.roots.resize(m);
        for (int i = 0; i < m; ++i) scratch.roots[i] = std::sqrt(sample.weights[i] * factor);
        for (int j = 0; j < n; ++j)
            for (int i = 0; i < m; ++i) scratch.rows[static_cast<int64_t>(j) * m + i] *= static_cast<Real<C>>(scratch.roots[i]);
        return m;
    };
    double wanted = accuracy.rows, factor = 1, total = 0;
    int seen = 0;
    sampler.sample(box, wanted, 0, scratch.sample);
    Rows<C> rows(n);
    for (int round = 1;; ++round) {
        if (scratch.sample.complete) {
            rows = Rows<C>(n);
            factor = 1, total = 0, seen = 0;
        }
        for (int way = 0; way < ways; ++way) {
            const int m = weighted(scratch.sample, way, factor);
            rows.add(scratch.rows.data(), m);
        }
        seen += static_cast<int>(scratch.sample.points.size()) + add_exact(rows, factor);
        total += factor;
        auto basis = rows.interpolate(accuracy.budget * total, scale);
        if (scratch.sample.complete || basis.rank == n) return basis;
        if (kOversampled * basis.rank < seen) {
            sampler.sample(box, kCheck * wanted, round, scratch.check);
            double off = 0, all = 0;
            for (int way = 0; way < ways; ++way) {
                const int m = weighted(scratch.check, way, 1.0);
                all += squared_norm(scale, scratch.rows.data(), m, n);
                off += lost(basis, scale, scratch.rows.data(), m, n, scratch);
            }
            if (off <= std::max(kAllowed * accuracy.budget, kRounding * all)) return basis;
        }
        wanted *= 2, factor *= 2;
        sampler.sample(box, wanted, round, scratch.sample);
    }
}

}  // namespace hmatrix
