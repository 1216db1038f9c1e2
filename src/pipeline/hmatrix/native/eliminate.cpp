#include "eliminate.hpp"

#include <cmath>

#include "memory.hpp"

namespace hmatrix {

namespace {

constexpr int64_t kLeastGivenBack = 256 << 20;  // bytes
constexpr int64_t kTimesGivenBack = 2;

template <class S, class C>
void append(std::vector<S>& to, const C* from, int64_t count) {
    const size_t start = to.size();
    to.resize(start + count);
    for (int64_t i = 0; i < count; ++i) to[start + i] = static_cast<S>(from[i]);
}

}  // namespace

void Watch::heed(bool watching) {
    const int done = ++done_;
    if (stopped_) throw Stopped();
    if (!watching) return;
    nb::gil_scoped_acquire python;
    try {
        heed_interrupts();
        tell(progress_, std::min(done, total_), total_);
    } catch (...) {
        stopped_ = true;
        throw;
    }
}

template <class C, class S>
Part<C, S>::Part(const KernelMatrix& matrix, const Tree& tree, In<int64_t> near_start, In<int> near_boxes,
                 In<int64_t> far_start, In<int> far_boxes, In<Wide<C>> diagonal, const PartOptions& options)
    : tree_(tree),
      near_start_(near_start),
      far_start_(far_start),
      near_boxes_(near_boxes),
      far_boxes_(far_boxes),
      near_{near_start.data(), near_boxes.data()},
      far_{far_start.data(), far_boxes.data()},
      sampler_(tree_, tree_, far_),
      options_(options),
      calls_python_(matrix.steps.empty()),
      matrix_(matrix, tree_, diagonal, options.kind == General),
      steps_(options.kind) {}

// Runs without Python's lock where nothing calls Python, and counts its operations.
template <class C, class S>
struct Part<C, S>::Work {
    explicit Work(Part& part) : part(part), begun(flop_count) {
        if (!part.calls_python_) unlocked.emplace();
    }
    ~Work() { part.flops_ += flop_count - begun; }
    Part& part;
    double begun;
    std::optional<nb::gil_scoped_release> unlocked;
};

template <class C, class S>
void Part<C, S>::set_points(In<int> boxes, In<int64_t> start, In<int> points) {
    const int64_t* at = start.data();
    for (size_t i = 0; i < boxes.shape(0); ++i)
        matrix_.set_points(boxes.data()[i], points.data() + at[i], static_cast<int>(at[i + 1] - at[i]));
}

template <class C, class S>
nb::tuple Part<C, S>::points(In<int> boxes) const {
    std::vector<int64_t> start{0};
    std::vector<int> points;
    for (size_t i = 0; i < boxes.shape(0); ++i) {
        const std::vector<int>& own = matrix_.points(boxes.data()[i]);
        points.insert(points.end(), own.begin(), own.end());
        start.push_back(static_cast<int64_t>(points.size()));
    }
    return nb::make_tuple(give(std::move(start)), give(std::move(points)));
}

template <class C, class S>
int64_t Part<C, S>::unknowns(int first, int last) const {
    int64_t total = 0;
    for (int b = first; b < last; ++b) total += size(b);
    return total;
}

template <class C, class S>
nb::tuple Part<C, S>::eliminate(In<int> boxes, In<int> told, Watch& watch, bool watching) {
    nb::object failure = nb::none();
    size_t i = 0;
    {
        std::optional<BadPivot> failed;
        {
            Work work(*this);
            try {
                for (; i < boxes.shape(0); ++i) {
                    watch.heed(watching);
                    eliminate_box(boxes.data()[i], static_cast<Told>(told.data()[i]));
                    records_.int_start.push_back(static_cast<int64_t>(records_.ints.size()));
                    records_.value_start.push_back(static_cast<int64_t>(records_.values.size()));
                    note(static_cast<int64_t>(records_.values.size() * sizeof(S)));
                    give_back();
                }
            } catch (const Missing&) {  // nothing of this box has been touched yet
            } catch (const BadPivot& found) {
                failed = found;
            } catch (...) {
                watch.stop();
                throw;
            }
            steps_.tidy();
        }
        if (failed) failure = nb::make_tuple(failed->point, failed->pivot);
    }
    return nb::make_tuple(i, failure);
}

template <class C, class S>
nb::tuple Part<C, S>::take() {
    nb::tuple records =
        nb::make_tuple(give(std::move(records_.int_start)), give(std::move(records_.ints)),
                       give(std::move(records_.value_start)), give(std::move(records_.values)));
    records_ = {};
    return nb::make_tuple(steps_.hand_out(), records);
}

template <class C, class S>
Interpolation<C> Part<C, S>::compress(int b) {
    const int n = size(b), ways = general() ? 2 : 1;
    const auto evaluate = [&](const std::vector<int>& points, int way, C* out) {
        if (!matrix_.keeps(points)) throw Missing{};
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

// Lists b, of k skeletons, and its neighbors, with the rows of each in W.
template <class C, class S>
void Part<C, S>::list_neighbors(int b, int k) {
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
}

// Unknowns of the rows in W: skeletons order[0], ..., order[k - 1] of b, and those of its neighbors.
template <class C, class S>
std::vector<int> Part<C, S>::neighbors(int b, const int* order, int k) const {
    std::vector<int> found(k);
    for (int i = 0; i < k; ++i) found[i] = matrix_.points(b)[order[i]];
    for (size_t p = 1; p < parts_.size(); ++p) {
        const std::vector<int>& points = matrix_.points(parts_[p]);
        found.insert(found.end(), points.begin(), points.end());
    }
    return found;
}

template <class C, class S>
void Part<C, S>::eliminate_box(int b, Told told) {
    const int n = size(b);
    if (n == 0) return;
    const Interpolation<C> basis = compress(b);
    const int k = basis.rank, d = n - k;
    list_neighbors(b, k);
    const int rows = offsets_.back();
    steps_.open(d, k, rows, 1);
    if (d == 0) return;

    const int* order = basis.order.data();
    if (told != Nobody) {
        records_.ints.insert(records_.ints.end(), {b, n, k, rows, told == Updates});
        records_.ints.insert(records_.ints.end(), order, order + k);
    }
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
    if (general()) {
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
    gemm<C>('T', 'T', d, d, k, C(-1), (general() ? V_ : W_).data(), rows, TT, d, C(1), X.data(), d);

    std::vector<int> redundant(d), pivots;
    for (int i = 0; i < d; ++i) redundant[i] = matrix_.points(b)[order[k + i]];
    factorize_block(options_.kind, d, X, pivots, steps_.determinant(), redundant.data());
    steps_.begin(redundant, neighbors(b, order, k), k, TT, X, pivots);
    const C *left = W_.data(), *right = W_.data();  // update: left right^T
    if (options_.kind == Cholesky) {
        trsm<C>('R', 'L', 'T', 'N', rows, d, X.data(), d, W_.data(), rows);
        steps_.add(W_.data(), static_cast<int64_t>(W_.size()));
        if (told == Updates) tell(W_);
    } else {
        // V^T <- X^-1 A_DN, through its transpose: rows of V are columns of A_DN
        std::vector<C>& source = general() ? V_ : W_;
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
        if (general()) {
            for (int j = 0; j < rows; ++j)
                for (int i = 0; i < d; ++i)
                    solved_[static_cast<int64_t>(j) * d + i] = W_[static_cast<int64_t>(i) * rows + j];
            getrs<C>('T', d, rows, X.data(), d, pivots.data(), solved_.data(), d);
            left_.resize(W_.size());
            for (int j = 0; j < rows; ++j)
                for (int i = 0; i < d; ++i)
                    left_[static_cast<int64_t>(i) * rows + j] = solved_[static_cast<int64_t>(j) * d + i];
            steps_.add(left_.data(), static_cast<int64_t>(left_.size()));
        }
        steps_.add(right_.data(), static_cast<int64_t>(right_.size()));
        if (told == Updates) {
            tell(W_);
            tell(right_);
        }
    }
    matrix_.shrink(b, order, k, P.data(), n);
    keep_near(b, k, rows);
    update(left, right, rows, d);
}

// W[k:] = N_D - N_S T for the neighbors' rows N = A_fb (flip: A_bf^T); N_S kept.
template <class C, class S>
void Part<C, S>::stack(int b, const Interpolation<C>& basis, int rows, bool flip, std::vector<C>& W,
                       std::vector<C>& NS) {
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

// Sends M in the stored type, and goes on with what was sent: so both copies of a block get the same.
template <class C, class S>
void Part<C, S>::tell(std::vector<C>& M) {
    const size_t start = records_.values.size();
    append(records_.values, M.data(), static_cast<int64_t>(M.size()));
    for (size_t i = 0; i < M.size(); ++i) M[i] = static_cast<C>(records_.values[start + i]);
}

// Keeps the near blocks that have just been evaluated and are not stored yet.
template <class C, class S>
void Part<C, S>::keep_near(int b, int k, int rows) {
    const int below = rows - k;
    for (size_t p = 1; p < parts_.size(); ++p) {
        const int f = parts_[p], m = size(f), low = std::min(f, b), high = std::max(f, b);
        if (matrix_.stored(low, high)) continue;
        Block<C> fresh{size(low), size(high), {}, {}};
        fresh.M.resize(static_cast<size_t>(m) * k);
        if (general()) fresh.R.resize(fresh.M.size());
        for (int way = 0; way < (general() ? 2 : 1); ++way) {
            // NS holds A_fS, NR holds A_Sf^T; M wants A_low,high and R wants A_high,low^T
            const C* from = (way == 0 ? NS_ : NR_).data() + offsets_[p] - k;
            C* to = ((way == 0) == (f < b) || !general() ? fresh.M : fresh.R).data();
            for (int j = 0; j < k; ++j)
                for (int i = 0; i < m; ++i)
                    (f < b ? to[static_cast<int64_t>(j) * m + i] : to[static_cast<int64_t>(i) * k + j]) =
                        from[static_cast<int64_t>(j) * below + i];
        }
        matrix_.insert(low, high, std::move(fresh));
    }
}

// Subtracts left right^T from the blocks between a box and its neighbors, as far as this part holds them.
template <class C, class S>
void Part<C, S>::update(const C* left, const C* right, int rows, int d) {
    for (size_t p = 0; p < parts_.size(); ++p) {
        for (size_t q = 0; q < parts_.size(); ++q) {
            const int i = parts_[p], j = parts_[q];
            if (i > j || size(i) == 0 || size(j) == 0) continue;
            if (!matrix_.owns(i) && !matrix_.owns(j)) continue;
            Block<C>& block = matrix_.ensure(i, j);
            gemm<C>('N', 'T', block.m, block.n, d, C(-1), left + offsets_[p], rows, right + offsets_[q], rows, C(1),
                    block.M.data(), block.m);
            if (general() && i != j)
                gemm<C>('N', 'T', block.m, block.n, d, C(-1), right + offsets_[p], rows, left + offsets_[q], rows,
                        C(1), block.R.data(), block.m);
        }
    }
}

template <class C, class S>
void Part<C, S>::apply(In<int> ints, In<S> values) {
    Work work(*this);
    const int *at = ints.data(), *end = at + ints.shape(0);
    const S* from = values.data();
    const int sides = options_.kind == Cholesky ? 1 : 2;
    while (at < end) {
        const int b = at[0], n = at[1], k = at[2], rows = at[3];
        const bool updates = at[4] == 1;
        const int* order = at + 5;
        at = order + k;
        if (size(b) != n) throw std::logic_error("a record does not fit the box that it tells of");
        matrix_.shrink(b, order, k, nullptr, n);
        if (!updates) continue;
        list_neighbors(b, k);
        if (offsets_.back() != rows) throw std::logic_error("a record does not fit the neighbors of its box");
        const int64_t count = static_cast<int64_t>(rows) * (n - k);
        left_.assign(from, from + count);
        if (sides == 2) right_.assign(from + count, from + 2 * count);
        from += sides * count;
        update(left_.data(), (sides == 2 ? right_ : left_).data(), rows, n - k);
        note();
        give_back();
    }
}

// Blocks come and go in unlike sizes: what one leaves free is often of no use to the next and stays with the process.
// Giving it back costs a page fault for each page that is used again, so it waits until blocks of twice the bytes in use
// have been freed: with 524,288 points on two processes the peak is 10 % above that of the eager way, in 0.8 of its time.
template <class C, class S>
void Part<C, S>::give_back() {
    if (!options_.gives_back) return;
    const int64_t enough = std::max(kLeastGivenBack, kTimesGivenBack * matrix_.bytes());
    if (matrix_.freed() - given_back_ < enough) return;
    given_back_ = matrix_.freed();
    release_free_memory();
}

template <class C, class S>
nb::tuple Part<C, S>::blocks(int first, int last, int not_first, int not_last) const {
    std::vector<int> ints;
    std::vector<C> values;
    matrix_.visit(first, last, not_first, not_last, [&](int p, int q, const Block<C>& block) {
        ints.insert(ints.end(), {p, q, block.m, block.n});
        values.insert(values.end(), block.M.begin(), block.M.end());
        values.insert(values.end(), block.R.begin(), block.R.end());
    });
    return nb::make_tuple(give(std::move(ints)), give(std::move(values)));
}

template <class C, class S>
void Part<C, S>::add_blocks(In<int> ints, In<C> values) {
    const C* from = values.data();
    for (size_t i = 0; i < ints.shape(0); i += 4) {
        const int *e = ints.data() + i, p = e[0], q = e[1];
        const int64_t count = static_cast<int64_t>(e[2]) * e[3];
        const bool both = general() && p != q;
        if (!matrix_.stored(p, q)) {
            Block<C> block{e[2], e[3], {from, from + count}, {}};
            if (both) block.R.assign(from + count, from + 2 * count);
            matrix_.insert(p, q, std::move(block));
        }
        from += both ? 2 * count : count;
    }
    note();
}

template <class C, class S>
void Part<C, S>::merge(int level, In<int> parents, int first, int last) {
    Work work(*this);
    matrix_.merge(level, parents.data(), static_cast<int>(parents.shape(0)), first, last, [this](int64_t) {
        note();
        give_back();
    });
}

template <class C, class S>
nb::tuple Part<C, S>::finish(int first, int last) {
    nb::object failure = nb::none();
    std::optional<BadPivot> failed;
    {
        Work work(*this);
        std::vector<int> points;
        for (int b = first; b < last; ++b)
            points.insert(points.end(), matrix_.points(b).begin(), matrix_.points(b).end());
        const int n = static_cast<int>(points.size());
        steps_.open(n, 0, 0, last - first);
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
        try {
            factorize_block(options_.kind, n, X, pivots, steps_.determinant(), points.data());
            steps_.begin(points, {}, 0, static_cast<const C*>(nullptr), X, pivots);
            note(static_cast<int64_t>(X.size() * sizeof(C)));
        } catch (const BadPivot& found) {
            failed = found;
        }
    }
    if (failed) failure = nb::make_tuple(failed->point, failed->pivot);
    return nb::make_tuple(steps_.hand_out(), failure);
}

template class Part<double, double>;
template class Part<double, float>;
template class Part<float, float>;
template class Part<Single, Single>;
template class Part<Complex, Complex>;
template class Part<Complex, Single>;

}  // namespace hmatrix
