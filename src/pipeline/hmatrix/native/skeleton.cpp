#include "skeleton.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace hmatrix {

namespace {

inline double conjugate(double x) { return x; }
inline Complex conjugate(Complex x) { return std::conj(x); }
inline double square(double x) { return x * x; }
inline double square(Complex x) { return std::norm(x); }

}  // namespace

template <class C>
void Rows<C>::add(const C* rows, int m) {
    if (m == 0 || n_ == 0) return;
    if (!orthogonal_) {
        add_gram(n_, m, rows, m, gram_.data(), n_);
        return;
    }
    for (int i = 0; i < m; ++i)
        for (int j = 0; j < n_; ++j) kept_.push_back(rows[static_cast<int64_t>(j) * m + i]);
    count_ += m;
    if (count_ > 8 * n_ + 256) reduce();
}

// Replaces the kept rows by the triangular factor of their QR decomposition.
template <class C>
void Rows<C>::reduce() {
    int m = count_, n = n_, info = 0, size = 64 * std::max(n, 1);
    if (m == 0 || n == 0) return;
    std::vector<C> columns(static_cast<size_t>(m) * n), tau(std::min(m, n)), work(size);
    for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) columns[static_cast<int64_t>(j) * m + i] = kept_[static_cast<int64_t>(i) * n + j];
    routines<C>().geqrf(&m, &n, columns.data(), &m, tau.data(), work.data(), &size, &info);
    count_ = std::min(m, n);
    kept_.assign(static_cast<size_t>(count_) * n, C(0));
    for (int i = 0; i < count_; ++i)
        for (int j = i; j < n; ++j) kept_[static_cast<int64_t>(i) * n + j] = columns[static_cast<int64_t>(j) * m + i];
}

// Cholesky with diagonal pivoting, stopped by the trace of what is left, which is the squared residual.
template <class C>
Interpolation<C> Rows<C>::by_gram(double budget, const double* scale) {
    const int n = n_;
    for (int j = 0; j < n; ++j)
        for (int i = j + 1; i < n; ++i)
            gram_[static_cast<int64_t>(i) * n + j] = conjugate(gram_[static_cast<int64_t>(j) * n + i]);
    std::vector<double> weight(n, 1.0), left(n);
    if (scale) std::copy_n(scale, n, weight.data());
    std::vector<C> L(static_cast<size_t>(n) * n), row(n);  // (n, k), column-major, rows in pivoted order
    Interpolation<C> result;
    result.order.resize(n);
    std::iota(result.order.begin(), result.order.end(), 0);
    auto& order = result.order;
    double trace = 0;
    for (int j = 0; j < n; ++j) {
        left[j] = std::real(gram_[static_cast<int64_t>(j) * n + j]) * weight[j] * weight[j];
        trace += left[j];
    }
    // Below this the remaining trace is rounding of the Gram matrix, and pivots are noise.
    const double floor = 2e-15 * trace;
    int k = 0;
    for (; k < n; ++k) {
        double rest = 0;
        int pivot = k;
        for (int i = k; i < n; ++i) {
            rest += left[i];
            if (left[i] > left[pivot]) pivot = i;
        }
        if (rest <= std::max(budget, floor) || left[pivot] <= 0) break;
        std::swap(order[k], order[pivot]);
        std::swap(left[k], left[pivot]);
        for (int c = 0; c < k; ++c)
            std::swap(L[static_cast<int64_t>(c) * n + k], L[static_cast<int64_t>(c) * n + pivot]);
        C* column = L.data() + static_cast<int64_t>(k) * n;
        const C* source = gram_.data() + static_cast<int64_t>(order[k]) * n;
        const double w = weight[order[k]];
        for (int i = k; i < n; ++i) column[i] = source[order[i]] * (w * weight[order[i]]);
        for (int c = 0; c < k; ++c) row[c] = conjugate(L[static_cast<int64_t>(c) * n + k]);
        gemv<C>('N', n - k, k, C(-1), L.data() + k, n, row.data(), C(1), column + k);
        const double root = std::sqrt(std::max(std::real(column[k]), left[k] * 1e-3));
        for (int i = k; i < n; ++i) column[i] /= root;
        column[k] = root;
        for (int i = k + 1; i < n; ++i) left[i] = std::max(left[i] - square(column[i]), 0.0);
    }
    result.rank = k;
    const int rest = n - k;
    result.T.resize(static_cast<size_t>(k) * rest);
    // (L2 L1^-1)^H = T of the scaled columns
    std::vector<C> B(static_cast<size_t>(rest) * k);
    for (int c = 0; c < k; ++c)
        std::copy_n(L.data() + static_cast<int64_t>(c) * n + k, rest, B.data() + static_cast<int64_t>(c) * rest);
    trsm<C>('R', 'L', 'N', 'N', rest, k, L.data(), n, B.data(), rest);
    for (int c = 0; c < k; ++c)
        for (int i = 0; i < rest; ++i)
            result.T[static_cast<int64_t>(c) * rest + i] =
                conjugate(B[static_cast<int64_t>(c) * rest + i]) * (weight[order[c]] / weight[order[k + i]]);
    return result;
}

// Householder QR with column pivoting; norms are recomputed, so that no digits are lost.
template <class C>
Interpolation<C> Rows<C>::by_qr(double budget, const double* scale) {
    reduce();
    const int n = n_, m = count_;
    std::vector<double> weight(n, 1.0);
    if (scale) std::copy_n(scale, n, weight.data());
    std::vector<C> R(static_cast<size_t>(m) * n), v(m);
    for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j)
            R[static_cast<int64_t>(j) * m + i] = kept_[static_cast<int64_t>(i) * n + j] * weight[j];
    Interpolation<C> result;
    result.order.resize(n);
    std::iota(result.order.begin(), result.order.end(), 0);
    double first = 0;
    int k = 0;
    for (; k < std::min(m, n); ++k) {
        double rest = 0, best = -1;
        int pivot = k;
        for (int j = k; j < n; ++j) {
            double norm = 0;
            for (int i = k; i < m; ++i) norm += square(R[static_cast<int64_t>(j) * m + i]);
            rest += norm;
            if (norm > best) best = norm, pivot = j;
        }
        if (k == 0) first = rest;
        if (rest <= std::max(budget, 1e-31 * first)) break;
        if (pivot != k) {
            std::swap_ranges(R.begin() + static_cast<int64_t>(k) * m, R.begin() + static_cast<int64_t>(k + 1) * m,
                             R.begin() + static_cast<int64_t>(pivot) * m);
            std::swap(result.order[k], result.order[pivot]);
        }
        C* column = R.data() + static_cast<int64_t>(k) * m;
        const double norm = std::sqrt(best);
        const double size = std::abs(column[k]);
        const C phase = size > 0 ? column[k] / size : C(1);
        double length = 0;
        for (int i = k; i < m; ++i) v[i] = column[i];
        v[k] += phase * norm;
        for (int i = k; i < m; ++i) length += square(v[i]);
        for (int j = k; j < n; ++j) {
            C* other = R.data() + static_cast<int64_t>(j) * m;
            C sum(0);
            for (int i = k; i < m; ++i) sum += conjugate(v[i]) * other[i];
            sum *= 2 / length;
            for (int i = k; i < m; ++i) other[i] -= v[i] * sum;
        }
    }
    result.rank = k;
    const int rest = n - k;
    std::vector<C> B(static_cast<size_t>(k) * rest);
    for (int j = 0; j < rest; ++j)
        std::copy_n(R.data() + static_cast<int64_t>(k + j) * m, k, B.data() + static_cast<int64_t>(j) * k);
    if (k > 0) trsm<C>('L', 'U', 'N', 'N', k, rest, R.data(), m, B.data(), k);
    result.T.resize(B.size());
    for (int c = 0; c < k; ++c)
        for (int i = 0; i < rest; ++i)
            result.T[static_cast<int64_t>(c) * rest + i] =
                B[static_cast<int64_t>(i) * k + c] * (weight[result.order[c]] / weight[result.order[k + i]]);
    return result;
}

template <class C>
Interpolation<C> Rows<C>::interpolate(double budget, const double* scale) {
    return orthogonal_ ? by_qr(budget, scale) : by_gram(budget, scale);
}

template class Rows<double>;
template class Rows<Complex>;

}  // namespace hmatrix
