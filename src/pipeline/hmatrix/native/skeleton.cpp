#include "skeleton.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace hmatrix {

namespace {

template <class C>
inline C conjugate(C x) {
    if constexpr (std::is_same_v<C, Real<C>>)
        return x;
    else
        return std::conj(x);
}

// Below these shares of the trace a Gram matrix is rounding, and M itself is.
template <class C>
constexpr double kGramFloor = 18 * double(std::numeric_limits<Real<C>>::epsilon());
template <class C>
constexpr double kFloor = kGramFloor<C> * double(std::numeric_limits<Real<C>>::epsilon());

// Moves pivots of G (n, n) to the front of `order`, until what is left of its trace is at most `enough`.
// L (n, rank), column-major, gets the factor, rows in the order of the pivots.
template <class C>
int pivoted_cholesky(int n, const C* G, double enough, std::vector<int>& order, std::vector<C>& L) {
    L.assign(static_cast<size_t>(n) * n, C(0));
    order.resize(n);
    std::iota(order.begin(), order.end(), 0);
    std::vector<double> left(n);
    for (int j = 0; j < n; ++j) left[j] = std::real(G[static_cast<int64_t>(j) * n + j]);
    std::vector<C> row(n);
    int k = 0;
    for (; k < n; ++k) {
        double rest = 0;
        int pivot = k;
        for (int i = k; i < n; ++i) {
            rest += left[i];
            if (left[i] > left[pivot]) pivot = i;
        }
        if (rest <= enough || left[pivot] <= 0) break;
        std::swap(order[k], order[pivot]);
        std::swap(left[k], left[pivot]);
        for (int c = 0; c < k; ++c)
            std::swap(L[static_cast<int64_t>(c) * n + k], L[static_cast<int64_t>(c) * n + pivot]);
        C* column = L.data() + static_cast<int64_t>(k) * n;
        const C* source = G + static_cast<int64_t>(order[k]) * n;
        for (int i = k; i < n; ++i) column[i] = source[order[i]];
        for (int c = 0; c < k; ++c) row[c] = conjugate(L[static_cast<int64_t>(c) * n + k]);
        gemv<C>('N', n - k, k, C(-1), L.data() + k, n, row.data(), C(1), column + k);
        const Real<C> root = std::sqrt(std::max(std::real(column[k]), static_cast<Real<C>>(left[k] * 1e-3)));
        for (int i = k; i < n; ++i) column[i] /= root;
        column[k] = root;
        for (int i = k + 1; i < n; ++i) left[i] = std::max(left[i] - std::norm(column[i]), 0.0);
    }
    return k;
}

template <class C>
void fill_upper(int n, C* G) {
    for (int j = 0; j < n; ++j)
        for (int i = j + 1; i < n; ++i) G[static_cast<int64_t>(i) * n + j] = conjugate(G[static_cast<int64_t>(j) * n + i]);
}

template <class C>
double trace(int n, const C* G) {
    double sum = 0;
    for (int j = 0; j < n; ++j) sum += std::real(G[static_cast<int64_t>(j) * n + j]);
    return sum;
}

}  // namespace

template <class C>
void Rows<C>::add(const C* rows, int m) {
    if (m == 0 || n_ == 0) return;
    add_gram(n_, m, rows, m, gram_.data(), n_);
    portions_.push_back({m, std::vector<C>(rows, rows + static_cast<size_t>(m) * n_)});
}

template <class C>
Interpolation<C> Rows<C>::interpolate(double budget, const double* scale) const {
    const int n = n_;
    std::vector<double> weight(n, 1.0);
    if (scale) std::copy_n(scale, n, weight.data());
    Interpolation<C> result;
    auto& order = result.order;
    order.resize(n);
    std::iota(order.begin(), order.end(), 0);

    // T (k, d), column-major, and the residual's Gram matrix G (d, d), both of the weighted columns.
    std::vector<C> G = gram_, T, L, chosen, others, merged;
    fill_upper(n, G.data());
    for (int j = 0; j < n; ++j)
        for (int i = 0; i < n; ++i) G[static_cast<int64_t>(j) * n + i] *= static_cast<Real<C>>(weight[i] * weight[j]);
    const double all = trace(n, G.data());
    std::vector<int> pivots;
    int k = 0, d = n;
    for (;;) {
        const double rest = trace(d, G.data()), enough = std::max(budget, kFloor<C> * all);
        if (rest <= enough) break;
        const int added = pivoted_cholesky(d, G.data(), std::max(enough, kGramFloor<C> * rest), pivots, L);
        if (added == 0) break;
        const int left = d - added;
        // U (added, left) = (L2 L1^-1)^H expresses what is left of the residual through its pivots.
        std::vector<C> B(static_cast<size_t>(left) * added), U(B.size());
        for (int c = 0; c < added; ++c)
            std::copy_n(L.data() + static_cast<int64_t>(c) * d + added, left, B.data() + static_cast<int64_t>(c) * left);
        trsm<C>('R', 'L', 'N', 'N', left, added, L.data(), d, B.data(), left);
        for (int c = 0; c < added; ++c)
            for (int j = 0; j < left; ++j)
                U[static_cast<int64_t>(j) * added + c] = conjugate(B[static_cast<int64_t>(c) * left + j]);
        // M_D - M_S T_D ~ (M_P - M_S T_P) U, so that T becomes [T_D - T_P U; U].
        merged.assign(static_cast<size_t>(k + added) * left, C(0));
        chosen.resize(static_cast<size_t>(k) * added);
        for (int c = 0; c < added; ++c)
            std::copy_n(T.data() + static_cast<int64_t>(pivots[c]) * k, k, chosen.data() + static_cast<int64_t>(c) * k);
        for (int j = 0; j < left; ++j) {
            C* column = merged.data() + static_cast<int64_t>(j) * (k + added);
            std::copy_n(T.data() + static_cast<int64_t>(pivots[added + j]) * k, k, column);
            std::copy_n(U.data() + static_cast<int64_t>(j) * added, added, column + k);
        }
        gemm<C>('N', 'N', k, left, added, C(-1), chosen.data(), k, U.data(), added, C(1), merged.data(), k + added);
        T.swap(merged);
        std::vector<int> reordered(d);
        for (int i = 0; i < d; ++i) reordered[i] = order[k + pivots[i]];
        std::copy(reordered.begin(), reordered.end(), order.begin() + k);
        k += added, d = left;
        if (d == 0 || enough >= kGramFloor<C> * rest) break;

        G.assign(static_cast<size_t>(d) * d, C(0));
        for (const Portion& portion : portions_) {
            const int m = portion.m;
            const auto gather = [&](int first, int count, std::vector<C>& to) {
                to.resize(static_cast<size_t>(m) * count);
                for (int j = 0; j < count; ++j) {
                    const C* from = portion.values.data() + static_cast<int64_t>(order[first + j]) * m;
                    const auto factor = static_cast<Real<C>>(weight[order[first + j]]);
                    for (int i = 0; i < m; ++i) to[static_cast<int64_t>(j) * m + i] = from[i] * factor;
                }
            };
            gather(0, k, chosen);
            gather(k, d, others);
            gemm<C>('N', 'N', m, d, k, C(-1), chosen.data(), m, T.data(), k, C(1), others.data(), m);
            add_gram(d, m, others.data(), m, G.data(), d);
        }
        fill_upper(d, G.data());
    }
    result.rank = k;
    result.T.resize(static_cast<size_t>(k) * d);
    for (int c = 0; c < k; ++c)
        for (int j = 0; j < d; ++j)
            result.T[static_cast<int64_t>(c) * d + j] =
                T[static_cast<int64_t>(j) * k + c] * static_cast<Real<C>>(weight[order[c]] / weight[order[k + j]]);
    return result;
}

template class Rows<float>;
template class Rows<double>;
template class Rows<Single>;
template class Rows<Complex>;

}  // namespace hmatrix
