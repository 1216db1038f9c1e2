#include "product.hpp"

namespace hmatrix {

namespace {

// Coefficients of all boxes, box b's at m * skeleton_start[b], (rank, m) column-major.
template <class S>
class Passes {
  public:
    using C = Wide<S>;
    Passes(const Tree& tree, const Basis<S>& basis, int m)
        : tree_(tree),
          basis_(basis),
          m_(m),
          n_(tree.boxes() ? tree.stop.data()[tree.boxes() - 1] : 0),
          coefficients_(static_cast<size_t>(basis.skeleton_start.data()[tree.boxes()]) * m) {}

    C* at(int b) { return coefficients_.data() + basis_.skeleton_start.data()[b] * m_; }
    int rank(int b) const { return basis_.rank.data()[b]; }

    void up(const C* x) {
        for (int b = tree_.boxes() - 1; b >= 0; --b) {
            const int k = rank(b), n = size(b);
            if (k == 0) continue;
            gather(b, n, x);
            C* to = at(b);
            for (int c = 0; c < m_; ++c)
                for (int i = 0; i < k; ++i) to[c * k + i] += local_[static_cast<int64_t>(c) * n + i];
            // T row-major is T^T column-major
            add_transposed_product(n - k, k, m_, T(b), local_.data() + k, n, to, k, scratch_);
        }
    }

    void down(C* y) {
        for (int b = 0; b < tree_.boxes(); ++b) {
            const int k = rank(b), n = size(b);
            if (k == 0) continue;
            local_.assign(static_cast<size_t>(n) * m_, C(0));
            const C* from = at(b);
            for (int c = 0; c < m_; ++c)
                for (int i = 0; i < k; ++i) local_[static_cast<int64_t>(c) * n + i] = from[c * k + i];
            add_product(n - k, k, m_, T(b), from, k, local_.data() + k, n, scratch_);
            scatter(b, n, y);
        }
    }

  private:
    int size(int b) const { return static_cast<int>(basis_.order_start.data()[b + 1] - basis_.order_start.data()[b]); }
    const S* T(int b) const { return basis_.values.data() + basis_.value_start.data()[b]; }
    const int* order(int b) const { return basis_.order.data() + basis_.order_start.data()[b]; }

    void gather(int b, int n, const C* x) {
        local_.resize(static_cast<size_t>(n) * m_);
        visit(
            b, n, [this, n](int i, int c, C& place) { local_[static_cast<int64_t>(c) * n + i] = place; },
            const_cast<C*>(x));
    }

    void scatter(int b, int n, C* y) {
        visit(b, n, [this, n](int i, int c, C& place) { place += local_[static_cast<int64_t>(c) * n + i]; }, y);
    }

    // Calls action(i, c, place) for the place of local unknown i (in basis order) of vector c.
    template <class Action>
    void visit(int b, int n, Action action, C* x) {
        const int* p = order(b);
        if (tree_.leaf(b)) {
            const int first = tree_.start.data()[b];
            for (int c = 0; c < m_; ++c)
                for (int i = 0; i < n; ++i) action(i, c, x[static_cast<int64_t>(c) * n_ + first + p[i]]);
            return;
        }
        places_.resize(n);
        int j = 0;
        for (int child = tree_.first_child.data()[b]; child < tree_.first_child.data()[b] + tree_.arity; ++child)
            for (int i = 0; i < rank(child); ++i) places_[j++] = {at(child) + i, rank(child)};
        for (int c = 0; c < m_; ++c)
            for (int i = 0; i < n; ++i) action(i, c, places_[p[i]].first[c * places_[p[i]].second]);
    }

    const Tree& tree_;
    const Basis<S>& basis_;
    int m_;
    int64_t n_;
    std::vector<C> coefficients_, local_, scratch_;
    std::vector<std::pair<C*, int>> places_;
};

}  // namespace

template <class S>
Out<Wide<S>> product(const Tree& row_tree, const Tree& column_tree, const Basis<S>& row_basis,
                     const Basis<S>& column_basis, const Blocks<S>& near, const Blocks<S>& far, bool mirrored,
                     bool transposed, In<Wide<S>> x, int m) {
    using C = Wide<S>;
    const Tree &in_tree = transposed ? row_tree : column_tree, &out_tree = transposed ? column_tree : row_tree;
    const auto points = [](const Tree& tree) { return tree.boxes() ? tree.stop.data()[tree.boxes() - 1] : 0; };
    const int n_in = points(in_tree), n_out = points(out_tree);
    std::vector<C> y(static_cast<size_t>(n_out) * m), scratch;

    const auto apply = [&](const Blocks<S>& blocks, auto input, auto output) {
        for (size_t p = 0; p < blocks.first.shape(0); ++p) {
            int a = blocks.first.data()[p], b = blocks.second.data()[p];
            const S* B = blocks.values.data() + blocks.start.data()[p];
            if (mirrored && a != b) {
                const auto xb = input(b), xa = input(a);
                const auto ya = output(a), yb = output(b);
                add_both_products(ya.size, yb.size, m, B, xb.at, xb.stride, ya.at, ya.stride, xa.at, xa.stride, yb.at,
                                  yb.stride, scratch);
            } else if (!transposed) {
                const auto xb = input(b), ya = output(a);
                add_product(ya.size, xb.size, m, B, xb.at, xb.stride, ya.at, ya.stride, scratch);
            } else {
                const auto xa = input(a), yb = output(b);
                add_transposed_product(xa.size, yb.size, m, B, xa.at, xa.stride, yb.at, yb.stride, scratch);
            }
        }
    };
    struct Part {
        C* at;
        int size, stride;
    };

    C* source = const_cast<C*>(x.data());
    apply(
        near, [&](int b) { return Part{source + in_tree.start.data()[b], in_tree.size(b), n_in}; },
        [&](int b) { return Part{y.data() + out_tree.start.data()[b], out_tree.size(b), n_out}; });
    if (far.first.shape(0) > 0) {
        Passes<S> in(in_tree, transposed ? row_basis : column_basis, m),
            out(out_tree, transposed ? column_basis : row_basis, m);
        in.up(x.data());
        apply(
            far, [&](int b) { return Part{in.at(b), in.rank(b), in.rank(b)}; },
            [&](int b) { return Part{out.at(b), out.rank(b), out.rank(b)}; });
        out.down(y.data());
    }
    return give(std::move(y));
}

#define HMATRIX_PRODUCT(S)                                                                                         \
    template Out<Wide<S>> product<S>(const Tree&, const Tree&, const Basis<S>&, const Basis<S>&, const Blocks<S>&, \
                                     const Blocks<S>&, bool, bool, In<Wide<S>>, int)
HMATRIX_PRODUCT(double);
HMATRIX_PRODUCT(float);
HMATRIX_PRODUCT(Complex);
HMATRIX_PRODUCT(Single);

}  // namespace hmatrix
