#include "solve.hpp"

namespace hmatrix {

namespace {

template <class S>
struct Elimination {
    int d, k, n;  // redundant unknowns, skeletons, neighbors
    const int* redundant;
    const int* neighbors;
    const S *T, *X, *W, *V;
    const int* pivots;
};

template <class S>
std::vector<Elimination<S>> list_steps(const std::vector<LevelView<S>>& levels, Kind kind) {
    std::vector<Elimination<S>> steps;
    for (const auto& level : levels) {
        const int* index = level.index.data();
        const S* values = level.values.data();
        const int* pivots = level.pivots.data();
        for (size_t s = 0; s < level.counts.shape(0) / 3; ++s) {
            const int *c = level.counts.data() + 3 * s, d = c[0], k = c[1], n = c[2];
            Elimination<S> step{d, k, n, index, index + d, values, nullptr, nullptr, nullptr, pivots};
            const int64_t wide = static_cast<int64_t>(n) * d;
            step.X = step.T + static_cast<int64_t>(d) * k;
            step.W = step.X + (kind == Cholesky ? static_cast<int64_t>(d) * (d + 1) / 2 : static_cast<int64_t>(d) * d);
            step.V = kind == General ? step.W + wide : step.W;
            index += d + n;
            values = step.V + wide;
            if (kind != Cholesky) pivots += d;
            steps.push_back(step);
        }
    }
    return steps;
}

template <class S>
class Actor {
  public:
    using C = Wide<S>;
    Actor(C* x, int m, Kind kind) : x_(x), m_(m), kind_(kind) {}

    // x_D <- (X^-1 or its half) (x_D - T^T x_S), x_N <- x_N - W x_D
    void forward(const Elimination<S>& s, bool transposed) {
        gather(D_, s.redundant, s.d);
        gather_negative(s, s.k);
        add_product(s.d, s.k, m_, s.T, N_.data(), D_.data(), scratch_);
        N_.assign(static_cast<size_t>(s.n) * m_, C(0));
        if (kind_ == Cholesky) triangle(s, false);
        add_product(s.n, s.d, m_, transposed ? s.V : s.W, D_.data(), N_.data(), scratch_);
        if (kind_ != Cholesky) pivoted(s, transposed);
        store(s);
        for_neighbors(s, s.n, [](C& x, C increment) { x -= increment; });
    }

    // x_D <- (1 or the other half of X^-1) (x_D - V^T x_N), x_S <- x_S - T x_D
    void backward(const Elimination<S>& s, bool transposed) {
        gather(D_, s.redundant, s.d);
        gather_negative(s, s.n);
        add_transposed_product(s.n, s.d, m_, transposed ? s.W : s.V, N_.data(), D_.data(), scratch_);
        if (kind_ == Cholesky) triangle(s, true);
        N_.assign(static_cast<size_t>(s.k) * m_, C(0));
        add_transposed_product(s.d, s.k, m_, s.T, D_.data(), N_.data(), scratch_);
        store(s);
        for_neighbors(s, s.k, [](C& x, C increment) { x -= increment; });
    }

    // The inverse of `forward`, for Cholesky: x_N <- x_N + W x_D, x_D <- L x_D + T^T x_S
    void multiply(const Elimination<S>& s) {
        gather(D_, s.redundant, s.d);
        N_.assign(static_cast<size_t>(s.n) * m_, C(0));
        add_product(s.n, s.d, m_, s.W, D_.data(), N_.data(), scratch_);
        for_neighbors(s, s.n, [](C& x, C increment) { x += increment; });
        unpack(s);
        trmm<C>('R', 'L', 'T', 'N', m_, s.d, full_.data(), s.d, D_.data(), m_);
        gather(N_, s.neighbors, s.k);
        add_product(s.d, s.k, m_, s.T, N_.data(), D_.data(), scratch_);
        store(s);
    }

    // The inverse of `backward`, for Cholesky: x_S <- x_S + T x_D, x_D <- L^T x_D + W^T x_N
    void multiply_transposed(const Elimination<S>& s) {
        gather(D_, s.redundant, s.d);
        N_.assign(static_cast<size_t>(s.k) * m_, C(0));
        add_transposed_product(s.d, s.k, m_, s.T, D_.data(), N_.data(), scratch_);
        for_neighbors(s, s.k, [](C& x, C increment) { x += increment; });
        unpack(s);
        trmm<C>('R', 'L', 'N', 'N', m_, s.d, full_.data(), s.d, D_.data(), m_);
        gather(N_, s.neighbors, s.n);
        add_transposed_product(s.n, s.d, m_, s.W, N_.data(), D_.data(), scratch_);
        store(s);
    }

  private:
    C* row(C* vectors, int i) const { return vectors + static_cast<int64_t>(i) * m_; }

    void gather(std::vector<C>& to, const int* unknowns, int count) {
        to.resize(static_cast<size_t>(count) * m_);
        for (int i = 0; i < count; ++i) std::copy_n(row(x_, unknowns[i]), m_, row(to.data(), i));
    }

    // N <- -x of the first `count` neighbors
    void gather_negative(const Elimination<S>& s, int count) {
        N_.resize(static_cast<size_t>(count) * m_);
        for_neighbors(s, count, [](C x, C& negative) { negative = -x; });
    }

    void store(const Elimination<S>& s) {
        for (int i = 0; i < s.d; ++i) std::copy_n(row(D_.data(), i), m_, row(x_, s.redundant[i]));
    }

    // Calls action(x, N) on all entries of the first `count` neighbors.
    template <class Action>
    void for_neighbors(const Elimination<S>& s, int count, Action action) {
        for (int i = 0; i < count; ++i) {
            C *x = row(x_, s.neighbors[i]), *own = row(N_.data(), i);
            for (int c = 0; c < m_; ++c) action(x[c], own[c]);
        }
    }

    void unpack(const Elimination<S>& s) {
        full_.resize(static_cast<size_t>(s.d) * s.d);
        const S* from = s.X;
        for (int j = 0; j < s.d; ++j)
            for (int i = j; i < s.d; ++i) full_[static_cast<int64_t>(j) * s.d + i] = static_cast<C>(*from++);
    }

    // D <- X^-1 D or X^-T D for X = P L U. D is row-major, so that to BLAS it is its transpose, and inverses act on the
    // right.
    void pivoted(const Elimination<S>& s, bool transposed) {
        const C* X = widen(s.X, static_cast<int64_t>(s.d) * s.d, scratch_);
        const auto exchange = [&](int i) {
            C* at = row(D_.data(), i);
            if (s.pivots[i] != i + 1) std::swap_ranges(at, at + m_, row(D_.data(), s.pivots[i] - 1));
        };
        if (!transposed) {
            for (int i = 0; i < s.d; ++i) exchange(i);
            trsm<C>('R', 'L', 'T', 'U', m_, s.d, X, s.d, D_.data(), m_);
            trsm<C>('R', 'U', 'T', 'N', m_, s.d, X, s.d, D_.data(), m_);
        } else {
            trsm<C>('R', 'U', 'N', 'N', m_, s.d, X, s.d, D_.data(), m_);
            trsm<C>('R', 'L', 'N', 'U', m_, s.d, X, s.d, D_.data(), m_);
            for (int i = s.d - 1; i >= 0; --i) exchange(i);
        }
    }

    void triangle(const Elimination<S>& s, bool transposed) {
        if (m_ > 1) {
            unpack(s);
            trsm<C>('R', 'L', transposed ? 'N' : 'T', 'N', m_, s.d, full_.data(), s.d, D_.data(), m_);
            return;
        }
        const int d = s.d;
        if (!transposed) {
            const S* column = s.X;
            for (int j = 0; j < d; column += d - j, ++j) {
                const C v = D_[j] /= static_cast<C>(column[0]);
                for (int i = j + 1; i < d; ++i) D_[i] -= static_cast<C>(column[i - j]) * v;
            }
        } else {
            const S* column = s.X + static_cast<int64_t>(d) * (d + 1) / 2;
            for (int j = d - 1; j >= 0; --j) {
                column -= d - j;
                C sum = D_[j];
                for (int i = j + 1; i < d; ++i) sum -= static_cast<C>(column[i - j]) * D_[i];
                D_[j] = sum / static_cast<C>(column[0]);
            }
        }
    }

    C* x_;
    int m_;
    Kind kind_;
    std::vector<C> D_, N_, full_, scratch_;
};

}  // namespace

template <class S>
void sweep(const std::vector<LevelView<S>>& levels, Kind kind, Sweep way, Wide<S>* x, int m) {
    if (m == 0) return;
    const std::vector<Elimination<S>> steps = list_steps(levels, kind);
    Actor<S> actor(x, m, kind);
    if (way == Forward || way == ForwardTransposed) {
        for (const auto& s : steps) actor.forward(s, way == ForwardTransposed);
    } else if (way == MultiplyRootTransposed) {
        for (const auto& s : steps) actor.multiply_transposed(s);
    } else if (way == MultiplyRoot) {
        for (auto s = steps.rbegin(); s != steps.rend(); ++s) actor.multiply(*s);
    } else {
        for (auto s = steps.rbegin(); s != steps.rend(); ++s) actor.backward(*s, way == BackwardTransposed);
    }
}

#define HMATRIX_SWEEP(S) template void sweep<S>(const std::vector<LevelView<S>>&, Kind, Sweep, Wide<S>*, int)
HMATRIX_SWEEP(double);
HMATRIX_SWEEP(float);
HMATRIX_SWEEP(Complex);
HMATRIX_SWEEP(Single);

}  // namespace hmatrix
