#include "eliminate.hpp"

#include <chrono>
#include <cmath>
#include <limits>

#include "active.hpp"
#include "adaptive.hpp"

namespace hmatrix {

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The steps of one level, in the layout that eliminate.hpp gives.
template <class S>
struct Steps {
    std::vector<int> counts, index, pivots;
    std::vector<S> values;
    std::vector<double> phase_and_log{1.0, 0.0,
                                      0.0};  // determinant: real and imaginary part of its phase, log of its size
    std::vector<int> table{0, 0, 0};
    double seconds = 0;
};

struct Failure {
    int level, point;
    double pivot;
};

template <class C, class S>
class Eliminator {
  public:
    Eliminator(const KernelMatrix& matrix, const Tree& tree, Lists near, Lists far, std::vector<C> diagonal,
               const EliminationOptions& options)
        : tree_(tree),
          near_(near),
          far_(far),
          sampler_(tree, tree, far_),
          options_(options),
          general_(options.kind == General),
          matrix_(matrix, tree, std::move(diagonal), general_) {}

    void run(std::vector<Steps<S>>& levels) {
        int level = tree_.levels() - 1;
        for (;; --level) {
            int64_t left = 0;
            for (int b = box_start(level); b < box_start(level + 1); ++b) left += size(b);
            if (left <= options_.stop || level < options_.first_level) break;
            levels.emplace_back();
            Steps<S>& steps = levels.back();
            const double begun = now();
            for (int b = box_start(level); b < box_start(level + 1); ++b) eliminate_box(b, level, steps);
            if (level > 0) matrix_.merge(level);
            steps.seconds = now() - begun;
            if (level == 0) {
                --level;
                break;
            }
        }
        levels.emplace_back();
        const double begun = now();
        finish(std::max(level, 0), levels.back());
        levels.back().seconds = now() - begun;
        tell(options_.progress, tree_.boxes(), tree_.boxes());
    }

  private:
    int box_start(int level) const { return tree_.level_start.data()[level]; }
    int size(int b) const { return matrix_.size(b); }

    Interpolation<C> compress(int b) {
        const int n = size(b), ways = general_ ? 2 : 1;
        const auto evaluate = [&](const std::vector<int>& points, int way, C* out) {
            matrix_.kernel_rows(points, b, out, way == 1);
        };
        // Far blocks that earlier steps have touched are no longer the kernel's.
        const auto add_touched = [&](Rows<C>& rows, double factor) {
            int m = 0;
            for (int f : matrix_.partners(b)) {
                if (f == b || std::binary_search(near_.begin(b), near_.begin(b) + near_.size(b), f)) continue;
                far_rows_.resize(static_cast<size_t>(size(f)) * n);
                for (int way = 0; way < ways; ++way) {
                    matrix_.fetch(f, b, far_rows_.data(), size(f), way == 1);
                    if (factor != 1)
                        for (C& entry : far_rows_) entry *= static_cast<Real<C>>(std::sqrt(factor));
                    rows.add(far_rows_.data(), size(f));
                }
                m += size(f);
            }
            return m;
        };
        const Accuracy accuracy{options_.budget, options_.rows};
        return adaptive_basis(sampler_, b, n, nullptr, accuracy, ways, scratch_, evaluate, add_touched);
    }

    void eliminate_box(int b, int level, Steps<S>& steps) {
        const int n = size(b);
        if (n == 0) return;
        heed_interrupts();
        tell(options_.progress, ++done_, tree_.boxes());
        const Interpolation<C> basis = compress(b);
        const int k = basis.rank, d = n - k;
        steps.table[0] += 1, steps.table[1] += n, steps.table[2] += k;
        if (d == 0) return;

        parts_.assign(1, b);
        offsets_.assign(1, 0);
        int rows = k;
        for (int i = 0; i < near_.size(b); ++i) {
            const int f = near_.begin(b)[i];
            if (f == b || size(f) == 0) continue;
            parts_.push_back(f);
            offsets_.push_back(rows);
            rows += size(f);
        }
        offsets_.push_back(rows);

        const int* order = basis.order.data();
        const C* TT = basis.T.data();  // T^T (d, k), column-major
        std::vector<C> A(static_cast<size_t>(n) * n), P(A.size());
        matrix_.fetch(b, b, A.data(), n, false);
        for (int j = 0; j < n; ++j)
            for (int i = 0; i < n; ++i)
                P[static_cast<int64_t>(j) * n + i] = A[static_cast<int64_t>(order[j]) * n + order[i]];
        const auto at = [n](std::vector<C>& M, int i, int j) { return M.data() + static_cast<int64_t>(j) * n + i; };

        W_.resize(static_cast<size_t>(rows) * d);
        NS_.resize(static_cast<size_t>(rows) * k);
        stack(b, basis, rows, false, W_, NS_);
        // top of W: A_SD - A_SS T
        for (int j = 0; j < d; ++j) std::copy_n(at(P, 0, k + j), k, W_.data() + static_cast<int64_t>(j) * rows);
        gemm<C>('N', 'T', k, d, k, C(-1), P.data(), n, TT, d, C(1), W_.data(), rows);
        if (general_) {
            V_.resize(W_.size());
            NR_.resize(NS_.size());
            stack(b, basis, rows, true, V_, NR_);
            for (int j = 0; j < d; ++j)
                for (int i = 0; i < k; ++i) V_[static_cast<int64_t>(j) * rows + i] = *at(P, k + j, i);
            gemm<C>('T', 'T', k, d, k, C(-1), P.data(), n, TT, d, C(1), V_.data(), rows);
        }
        // X = A_DD - T^T A_SD - X_DS T, where X_DS = A_DS - T^T A_SS is the transpose of the top of V (W if symmetric)
        std::vector<C> X(static_cast<size_t>(d) * d);
        for (int j = 0; j < d; ++j) std::copy_n(at(P, k, k + j), d, X.data() + static_cast<int64_t>(j) * d);
        gemm<C>('N', 'N', d, d, k, C(-1), TT, d, at(P, 0, k), n, C(1), X.data(), d);
        gemm<C>('T', 'T', d, d, k, C(-1), (general_ ? V_ : W_).data(), rows, TT, d, C(1), X.data(), d);

        std::vector<int> redundant(d), pivots;
        for (int i = 0; i < d; ++i) redundant[i] = matrix_.points(b)[order[k + i]];
        factorize_block(d, X, pivots, level, redundant.data(), steps);

        std::vector<int> skeletons(k);
        for (int i = 0; i < k; ++i) skeletons[i] = matrix_.points(b)[order[i]];

        record_header(steps, redundant, skeletons, rows, TT, X, pivots);
        const C *left = W_.data(), *right = W_.data();  // update: left right^T
        if (options_.kind == Cholesky) {
            trsm<C>('R', 'L', 'T', 'N', rows, d, X.data(), d, W_.data(), rows);
            record(steps, W_);
        } else {
            // V^T <- X^-1 A_DN, through its transpose: rows of V are columns of A_DN
            std::vector<C>& source = general_ ? V_ : W_;
            solved_.resize(source.size());
            for (int j = 0; j < rows; ++j)
                for (int i = 0; i < d; ++i)
                    solved_[static_cast<int64_t>(j) * d + i] = source[static_cast<int64_t>(i) * rows + j];
            getrs<C>('N', d, rows, X.data(), d, pivots.data(), solved_.data(), d);
            right_.resize(source.size());
            for (int j = 0; j < rows; ++j)
                for (int i = 0; i < d; ++i)
                    right_[static_cast<int64_t>(i) * rows + j] = solved_[static_cast<int64_t>(j) * d + i];
            right = right_.data();
            if (general_) {
                for (int j = 0; j < rows; ++j)
                    for (int i = 0; i < d; ++i)
                        solved_[static_cast<int64_t>(j) * d + i] = W_[static_cast<int64_t>(i) * rows + j];
                getrs<C>('T', d, rows, X.data(), d, pivots.data(), solved_.data(), d);
                left_.resize(W_.size());
                for (int j = 0; j < rows; ++j)
                    for (int i = 0; i < d; ++i)
                        left_[static_cast<int64_t>(i) * rows + j] = solved_[static_cast<int64_t>(j) * d + i];
                record(steps, left_);
            }
            record(steps, right_);
        }
        matrix_.shrink(b, order, k, P.data(), n);
        keep_near(b, k, rows);
        update(left, right, rows, d);
    }

    // W[k:] = N_D - N_S T for the neighbors' rows N = A_fb (flip: A_bf^T); N_S kept.
    void stack(int b, const Interpolation<C>& basis, int rows, bool flip, std::vector<C>& W, std::vector<C>& NS) {
        const int n = size(b), k = basis.rank, d = n - k, below = rows - k;
        N_.resize(static_cast<size_t>(below) * n);
        for (size_t p = 1; p < parts_.size(); ++p)
            matrix_.fetch(parts_[p], b, N_.data() + offsets_[p] - k, below, flip);
        for (int j = 0; j < d; ++j)
            std::copy_n(N_.data() + static_cast<int64_t>(basis.order[k + j]) * below, below,
                        W.data() + static_cast<int64_t>(j) * rows + k);
        for (int j = 0; j < k; ++j)
            std::copy_n(N_.data() + static_cast<int64_t>(basis.order[j]) * below, below,
                        NS.data() + static_cast<int64_t>(j) * below);
        gemm<C>('N', 'T', below, d, k, C(-1), NS.data(), below, basis.T.data(), d, C(1), W.data() + k, rows);
    }

    void factorize_block(int d, std::vector<C>& X, std::vector<int>& pivots, int level, const int* points,
                         Steps<S>& steps) {
        constexpr double epsilon = std::numeric_limits<Real<C>>::epsilon();
        if (options_.kind == Cholesky) {
            std::vector<double> before(d);
            for (int i = 0; i < d; ++i) before[i] = std::real(X[static_cast<int64_t>(i) * d + i]);
            const int info = potrf<C>(d, X.data(), d);
            if (info > 0)
                throw Failure{level, points[info - 1], std::real(X[static_cast<int64_t>(info - 1) * (d + 1)])};
            for (int i = 0; i < d; ++i) {
                const double root = std::real(X[static_cast<int64_t>(i) * (d + 1)]);
                if (!(root * root > 8 * epsilon * before[i])) throw Failure{level, points[i], root * root};
                steps.phase_and_log[2] += 2 * std::log(root);
            }
            return;
        }
        pivots.resize(d);
        const int info = getrf<C>(d, X.data(), d, pivots.data());
        double largest = 0;
        for (int i = 0; i < d; ++i)
            largest = std::max<double>(largest, std::abs(X[static_cast<int64_t>(i) * (d + 1)]));
        Complex phase(steps.phase_and_log[0], steps.phase_and_log[1]);
        for (int i = 0; i < d; ++i) {
            const auto u = static_cast<Wide<C>>(X[static_cast<int64_t>(i) * (d + 1)]);
            const double s = std::abs(u);
            if (info > 0 || !(s > epsilon * largest)) {
                if (info > 0 && i != info - 1) continue;
                throw Failure{level, points[i], s};
            }
            phase *= u / s;
            if (pivots[i] != i + 1) phase = -phase;
            steps.phase_and_log[2] += std::log(s);
        }
        steps.phase_and_log[0] = phase.real(), steps.phase_and_log[1] = phase.imag();
    }

    void record_header(Steps<S>& steps, const std::vector<int>& redundant, const std::vector<int>& skeletons, int rows,
                       const C* TT, const std::vector<C>& X, const std::vector<int>& pivots) {
        const int d = static_cast<int>(redundant.size()), k = static_cast<int>(skeletons.size());
        steps.counts.insert(steps.counts.end(), {d, k, rows});
        steps.index.insert(steps.index.end(), redundant.begin(), redundant.end());
        steps.index.insert(steps.index.end(), skeletons.begin(), skeletons.end());
        for (size_t p = 1; p < parts_.size(); ++p) {
            const std::vector<int>& points = matrix_.points(parts_[p]);
            steps.index.insert(steps.index.end(), points.begin(), points.end());
        }
        for (int64_t i = 0; i < static_cast<int64_t>(d) * k; ++i) steps.values.push_back(static_cast<S>(TT[i]));
        if (options_.kind == Cholesky) {
            for (int j = 0; j < d; ++j)
                for (int i = j; i < d; ++i) steps.values.push_back(static_cast<S>(X[static_cast<int64_t>(j) * d + i]));
        } else {
            record(steps, X);
            steps.pivots.insert(steps.pivots.end(), pivots.begin(), pivots.end());
        }
    }

    void record(Steps<S>& steps, const std::vector<C>& M) {
        const size_t start = steps.values.size();
        steps.values.resize(start + M.size());
        for (size_t i = 0; i < M.size(); ++i) steps.values[start + i] = static_cast<S>(M[i]);
    }

    // Keeps the near blocks that have just been evaluated and are not stored yet.
    void keep_near(int b, int k, int rows) {
        const int below = rows - k;
        for (size_t p = 1; p < parts_.size(); ++p) {
            const int f = parts_[p], m = matrix_.size(f), low = std::min(f, b), high = std::max(f, b);
            if (matrix_.stored(low, high)) continue;
            Block<C> fresh{matrix_.size(low), matrix_.size(high), {}, {}};
            fresh.M.resize(static_cast<size_t>(m) * k);
            if (general_) fresh.R.resize(fresh.M.size());
            for (int way = 0; way < (general_ ? 2 : 1); ++way) {
                // NS holds A_fS, NR holds A_Sf^T; M wants A_low,high and R wants A_high,low^T
                const C* from = (way == 0 ? NS_ : NR_).data() + offsets_[p] - k;
                C* to = ((way == 0) == (f < b) || !general_ ? fresh.M : fresh.R).data();
                for (int j = 0; j < k; ++j)
                    for (int i = 0; i < m; ++i)
                        (f < b ? to[static_cast<int64_t>(j) * m + i] : to[static_cast<int64_t>(i) * k + j]) =
                            from[static_cast<int64_t>(j) * below + i];
            }
            matrix_.insert(low, high, std::move(fresh));
        }
    }

    // Subtracts left right^T from the blocks between the box and its neighbors.
    void update(const C* left, const C* right, int rows, int d) {
        for (size_t p = 0; p < parts_.size(); ++p) {
            for (size_t q = 0; q < parts_.size(); ++q) {
                const int i = parts_[p], j = parts_[q];
                if (i > j || size(i) == 0 || size(j) == 0) continue;
                Block<C>& block = matrix_.ensure(i, j);
                gemm<C>('N', 'T', block.m, block.n, d, C(-1), left + offsets_[p], rows, right + offsets_[q], rows, C(1),
                        block.M.data(), block.m);
                if (general_ && i != j)
                    gemm<C>('N', 'T', block.m, block.n, d, C(-1), right + offsets_[p], rows, left + offsets_[q], rows,
                            C(1), block.R.data(), block.m);
            }
        }
    }

    // One dense factorization of what is left.
    void finish(int level, Steps<S>& steps) {
        std::vector<int> points;
        const int first = box_start(level), last = box_start(level + 1);
        for (int b = first; b < last; ++b)
            points.insert(points.end(), matrix_.points(b).begin(), matrix_.points(b).end());
        const int n = static_cast<int>(points.size());
        steps.table = {last - first, n, 0};
        if (n == 0) return;
        std::vector<C> X(static_cast<size_t>(n) * n);
        int64_t column = 0;
        for (int j = first; j < last; ++j) {
            int row = 0;
            for (int i = first; i < last; ++i) {
                if (size(i) && size(j)) matrix_.fetch(i, j, X.data() + column * n + row, n, false);
                row += size(i);
            }
            column += size(j);
        }
        std::vector<int> pivots;
        parts_.assign(1, first);
        factorize_block(n, X, pivots, level, points.data(), steps);
        record_header(steps, points, {}, 0, nullptr, X, pivots);
    }

    const Tree& tree_;
    Lists near_, far_;
    FarSampler sampler_;
    EliminationOptions options_;
    bool general_;
    ActiveMatrix<C> matrix_;
    std::vector<int> parts_, offsets_;
    std::vector<C> W_, V_, NS_, NR_, N_, left_, right_, solved_, far_rows_;
    AdaptiveScratch<C> scratch_;
    int done_ = 0;
};

}  // namespace

template <class C, class S>
nb::tuple eliminate(const KernelMatrix& matrix, const Tree& tree, In<int64_t> near_start, In<int> near_boxes,
                    In<int64_t> far_start, In<int> far_boxes, In<Wide<C>> diagonal, const EliminationOptions& options) {
    std::vector<Steps<S>> levels;
    std::vector<C> narrowed(diagonal.shape(0));
    for (size_t i = 0; i < narrowed.size(); ++i) narrowed[i] = static_cast<C>(diagonal.data()[i]);
    nb::object failure = nb::none();
    try {
        Eliminator<C, S>(matrix, tree, {near_start.data(), near_boxes.data()}, {far_start.data(), far_boxes.data()},
                         std::move(narrowed), options)
            .run(levels);
    } catch (const Failure& f) {
        failure = nb::make_tuple(f.level, f.point, f.pivot);
    }
    nb::list result;
    for (auto& s : levels)
        result.append(nb::make_tuple(give(std::move(s.counts)), give(std::move(s.index)), give(std::move(s.values)),
                                     give(std::move(s.pivots)), give(std::move(s.phase_and_log)),
                                     give(std::move(s.table)), s.seconds));
    return nb::make_tuple(result, failure);
}

#define HMATRIX_ELIMINATE(C, S)                                                                                      \
    template nb::tuple eliminate<C, S>(const KernelMatrix&, const Tree&, In<int64_t>, In<int>, In<int64_t>, In<int>, \
                                       In<Wide<C>>, const EliminationOptions&)
HMATRIX_ELIMINATE(double, double);
HMATRIX_ELIMINATE(double, float);
HMATRIX_ELIMINATE(float, float);
HMATRIX_ELIMINATE(Single, Single);
HMATRIX_ELIMINATE(Complex, Complex);
HMATRIX_ELIMINATE(Complex, Single);

}  // namespace hmatrix
