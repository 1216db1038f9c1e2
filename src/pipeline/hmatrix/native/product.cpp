#include "product.hpp"

#include "threads.hpp"

namespace hmatrix {

namespace {

// Coefficients of all boxes, box b's at m * skeleton_start[b], (rank, m) row-major.
template <class S>
class Passes {
  public:
    using C = Wide<S>;
    Passes(const Tree& tree, const Basis<S>& basis, C* coefficients, int m)
        : tree_(tree), basis_(basis), m_(m), coefficients_(coefficients) {}

    C* at(int b) { return coefficients_ + basis_.skeleton_start.data()[b] * m_; }
    int rank(int b) const { return basis_.rank.data()[b]; }

    void up(int b, const C* x) {
        const int k = rank(b), n = size(b);
        if (k == 0) return;
        gather(b, n, x);
        std::copy_n(local_.data(), static_cast<int64_t>(k) * m_, at(b));
        // T row-major is T^T column-major
        add_transposed_product(n - k, k, m_, T(b), local_.data() + static_cast<int64_t>(k) * m_, at(b), scratch_);
    }

    void down(int b, C* y) {
        const int k = rank(b), n = size(b);
        if (k == 0) return;
        local_.assign(static_cast<size_t>(n) * m_, C(0));
        std::copy_n(at(b), static_cast<int64_t>(k) * m_, local_.data());
        add_product(n - k, k, m_, T(b), at(b), local_.data() + static_cast<int64_t>(k) * m_, scratch_);
        scatter(b, n, y);
    }

  private:
    int size(int b) const { return static_cast<int>(basis_.order_start.data()[b + 1] - basis_.order_start.data()[b]); }
    const S* T(int b) const { return basis_.values.data() + basis_.value_start.data()[b]; }
    const int* order(int b) const { return basis_.order.data() + basis_.order_start.data()[b]; }

    void gather(int b, int n, const C* x) {
        local_.resize(static_cast<size_t>(n) * m_);
        visit(
            b, n, [this](int i, C* row) { std::copy_n(row, m_, local_.data() + static_cast<int64_t>(i) * m_); },
            const_cast<C*>(x));
    }

    void scatter(int b, int n, C* y) {
        const auto add = [this](int i, C* row) {
            const C* from = local_.data() + static_cast<int64_t>(i) * m_;
            for (int c = 0; c < m_; ++c) row[c] += from[c];
        };
        visit(b, n, add, y);
    }

    // Calls action(i, row) with the vectors' entries for local unknown i (in basis order).
    template <class Action>
    void visit(int b, int n, Action action, C* x) {
        const int* p = order(b);
        if (tree_.leaf(b)) {
            C* first = x + static_cast<int64_t>(tree_.start.data()[b]) * m_;
            for (int i = 0; i < n; ++i) action(i, first + static_cast<int64_t>(p[i]) * m_);
            return;
        }
        // Children are numbered one after the other, and so are their coefficients.
        C* first = at(tree_.first_child.data()[b]);
        for (int i = 0; i < n; ++i) action(i, first + static_cast<int64_t>(p[i]) * m_);
    }

    const Tree& tree_;
    const Basis<S>& basis_;
    int m_;
    C* coefficients_;
    std::vector<C> local_, scratch_;
};

}  // namespace

template <class S>
Out<Wide<S>> product(const Tree& row_tree, const Tree& column_tree, const Basis<S>& row_basis,
                     const Basis<S>& column_basis, const Blocks<S>& near, const Blocks<S>& far, bool mirrored,
                     bool transposed, In<Wide<S>> x, int m, int parts, int threads) {
    using C = Wide<S>;
    const Tree &in_tree = transposed ? row_tree : column_tree, &out_tree = transposed ? column_tree : row_tree;
    const int n_out = out_tree.boxes() ? out_tree.stop.data()[out_tree.boxes() - 1] : 0;
    std::vector<C> y(static_cast<size_t>(n_out) * m);
    const nb::gil_scoped_release unlocked;
    struct Part {
        C* at;
        int size;
    };
    const auto shared = [threads](int count, auto make, auto work) { share(count, threads, make, work, [] {}); };
    // A part gives the rows of its own boxes: those that start in its range of points. A mirrored block between two
    // parts is read by both.
    const auto part_of = [&](int b) {
        return static_cast<int>(static_cast<int64_t>(out_tree.start.data()[b]) * parts / std::max(n_out, 1));
    };
    const auto apply = [&](const Blocks<S>& blocks, auto input, auto output) {
        const auto one = [&](std::vector<C>& scratch, int part) {
            for (size_t p = 0; p < blocks.first.shape(0); ++p) {
                const int a = blocks.first.data()[p], b = blocks.second.data()[p];
                const bool both = mirrored && a != b;
                const bool gives_a = (both || !transposed) && (parts == 1 || part_of(a) == part);
                const bool gives_b = (both || transposed) && (parts == 1 || part_of(b) == part);
                const S* B = blocks.values.data() + blocks.start.data()[p];
                if (gives_a && gives_b) {
                    const Part ya = output(a), yb = output(b);
                    add_both_products(ya.size, yb.size, m, B, input(b).at, ya.at, input(a).at, yb.at, scratch);
                } else if (gives_a) {
                    const Part xb = input(b), ya = output(a);
                    add_product(ya.size, xb.size, m, B, xb.at, ya.at, scratch);
                } else if (gives_b) {
                    const Part xa = input(a), yb = output(b);
                    add_transposed_product(xa.size, yb.size, m, B, xa.at, yb.at, scratch);
                }
            }
        };
        shared(parts, [] { return std::vector<C>(); }, one);
    };
    // Boxes of a level know of the level below or above only.
    const auto level = [&](const Tree& tree, int number, auto make, auto work) {
        const int first = tree.level_start.data()[number], count = tree.level_start.data()[number + 1] - first;
        const int pieces = std::min(parts, count);
        shared(pieces, make, [&](auto& passes, int piece) {
            for (int i = static_cast<int64_t>(piece) * count / pieces; i < static_cast<int64_t>(piece + 1) * count / pieces; ++i)
                work(passes, first + i);
        });
    };
    const auto points = [m](const Tree& tree, C* vectors) {
        return [&tree, vectors, m](int b) {
            return Part{vectors + static_cast<int64_t>(tree.start.data()[b]) * m, tree.size(b)};
        };
    };
    apply(near, points(in_tree, const_cast<C*>(x.data())), points(out_tree, y.data()));
    if (far.first.shape(0) > 0) {
        const Basis<S>&in_basis = transposed ? row_basis : column_basis, &out_basis = transposed ? column_basis : row_basis;
        std::vector<C> taken(static_cast<size_t>(in_basis.skeleton_start.data()[in_tree.boxes()]) * m),
            given(static_cast<size_t>(out_basis.skeleton_start.data()[out_tree.boxes()]) * m);
        const auto in = [&] { return Passes<S>(in_tree, in_basis, taken.data(), m); };
        const auto out = [&] { return Passes<S>(out_tree, out_basis, given.data(), m); };
        const auto skeletons = [m](const Basis<S>& basis, C* coefficients) {
            return [&basis, coefficients, m](int b) {
                return Part{coefficients + basis.skeleton_start.data()[b] * m, basis.rank.data()[b]};
            };
        };
        for (int l = in_tree.levels() - 1; l >= 0; --l)
            level(in_tree, l, in, [&](Passes<S>& passes, int b) { passes.up(b, x.data()); });
        apply(far, skeletons(in_basis, taken.data()), skeletons(out_basis, given.data()));
        for (int l = 0; l < out_tree.levels(); ++l)
            level(out_tree, l, out, [&](Passes<S>& passes, int b) { passes.down(b, y.data()); });
    }
    nb::gil_scoped_acquire locked;
    return give(std::move(y));
}

template <class S>
void rise(const Tree& tree, const Basis<S>& basis, In<int> boxes, In<Wide<S>> x, InOut<Wide<S>> coefficients, int m) {
    Passes<S> passes(tree, basis, coefficients.data(), m);
    for (size_t i = 0; i < boxes.shape(0); ++i) passes.up(boxes.data()[i], x.data());
}

template <class S>
void descend(const Tree& tree, const Basis<S>& basis, In<int> boxes, InOut<Wide<S>> coefficients, InOut<Wide<S>> y,
             int m) {
    Passes<S> passes(tree, basis, coefficients.data(), m);
    for (size_t i = 0; i < boxes.shape(0); ++i) passes.down(boxes.data()[i], y.data());
}

template <class S>
void add_blocks(const Blocks<S>& blocks, bool mirrored, In<int64_t> taken, In<int> widths, In<Wide<S>> x,
                In<int64_t> given, In<int> heights, InOut<Wide<S>> y, int m) {
    using C = Wide<S>;
    std::vector<C> scratch;
    const auto from = [&](int b) { return x.data() + taken.data()[b] * m; };
    const auto to = [&](int b) { return y.data() + given.data()[b] * m; };
    for (size_t p = 0; p < blocks.first.shape(0); ++p) {
        const int a = blocks.first.data()[p], b = blocks.second.data()[p];
        const S* B = blocks.values.data() + blocks.start.data()[p];
        if (mirrored && a != b)
            add_both_products(heights.data()[a], widths.data()[b], m, B, from(b), to(a), from(a), to(b), scratch);
        else
            add_product(heights.data()[a], widths.data()[b], m, B, from(b), to(a), scratch);
    }
}

#define HMATRIX_PRODUCT(S)                                                                                         \
    template Out<Wide<S>> product<S>(const Tree&, const Tree&, const Basis<S>&, const Basis<S>&, const Blocks<S>&, \
                                     const Blocks<S>&, bool, bool, In<Wide<S>>, int, int, int);                           \
    template void rise<S>(const Tree&, const Basis<S>&, In<int>, In<Wide<S>>, InOut<Wide<S>>, int);                \
    template void descend<S>(const Tree&, const Basis<S>&, In<int>, InOut<Wide<S>>, InOut<Wide<S>>, int);          \
    template void add_blocks<S>(const Blocks<S>&, bool, In<int64_t>, In<int>, In<Wide<S>>, In<int64_t>, In<int>,   \
                                InOut<Wide<S>>, int)
HMATRIX_PRODUCT(double);
HMATRIX_PRODUCT(float);
HMATRIX_PRODUCT(Complex);
HMATRIX_PRODUCT(Single);

}  // namespace hmatrix
