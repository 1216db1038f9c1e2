#include "represented.hpp"

#include <algorithm>
#include <numeric>

namespace hmatrix {

template <class S>
Represented<S>::Side::Side(const Tree& own, const Basis<S>& basis) : tree(own), start(own.boxes() + 1, 0) {
    rank.assign(basis.rank.data(), basis.rank.data() + own.boxes());
    const int64_t* begins = basis.order_start.data();
    for (int b = 0; b < own.boxes(); ++b) start[b + 1] = start[b] + (begins[b + 1] - begins[b]) * rank[b];
    rows.assign(start.back(), C(0));
    for (int b = 0; b < own.boxes(); ++b) {
        const int k = rank[b], n = static_cast<int>(begins[b + 1] - begins[b]);
        const int* local = basis.order.data() + begins[b];
        const S* T = basis.values.data() + basis.value_start.data()[b];
        C* U = rows.data() + start[b];
        for (int i = 0; i < k; ++i) U[static_cast<int64_t>(local[i]) * k + i] = C(1);
        for (int i = 0; i < k; ++i)
            for (int j = 0; j < n - k; ++j)
                U[static_cast<int64_t>(local[k + j]) * k + i] = static_cast<C>(T[static_cast<int64_t>(i) * (n - k) + j]);
    }
    carried.resize(own.levels());
    at.resize(own.levels());
}

template <class S>
auto Represented<S>::Side::within(int b, Range range) const -> Range {
    const auto begin = places.begin();
    const auto find = [&](int place) {
        return static_cast<int>(std::lower_bound(begin + range.low, begin + range.high, place) - begin);
    };
    return {find(tree.start.data()[b]), find(tree.stop.data()[b])};
}

template <class S>
void Represented<S>::Side::take(In<int> chosen) {
    const int m = static_cast<int>(chosen.shape(0));
    order.resize(m);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int i, int j) { return chosen.data()[i] < chosen.data()[j]; });
    places.resize(m);
    for (int i = 0; i < m; ++i) places[i] = chosen.data()[order[i]];
    const auto box_of = [&](int level, int place) {
        const int *first = tree.start.data() + tree.level_start.data()[level],
                  *last = tree.start.data() + tree.level_start.data()[level + 1];
        // Of boxes with the same start all but the last are empty.
        return static_cast<int>(std::upper_bound(first, last, place) - tree.start.data()) - 1;
    };
    for (int level = tree.levels() - 1; level >= 0; --level) {
        at[level].assign(m + 1, 0);
        std::vector<C>& to = carried[level];
        to.clear();
        for (int i = 0; i < m;) {
            const int b = box_of(level, places[i]), k = rank[b], stop = tree.stop.data()[b];
            int j = i;
            for (; j < m && places[j] < stop; ++j) at[level][j + 1] = at[level][j] + k;
            to.resize(at[level][j], C(0));
            const C* U = rows.data() + start[b];
            if (k > 0 && tree.leaf(b)) {
                for (int r = i; r < j; ++r)
                    std::copy_n(U + static_cast<int64_t>(places[r] - tree.start.data()[b]) * k, k,
                                to.data() + at[level][r]);
            } else if (k > 0) {
                const std::vector<C>& from = carried[level + 1];
                int64_t unknown = 0;
                for (int c = tree.first_child.data()[b], r = i; r < j; ++c) {
                    int next = r;
                    while (next < j && places[next] < tree.stop.data()[c]) ++next;
                    // Row-major products of rows are column-major ones of columns.
                    if (next > r && rank[c] > 0)
                        gemm<C>('N', 'N', k, next - r, rank[c], C(1), U + unknown * k, k,
                                from.data() + at[level + 1][r], rank[c], C(0), to.data() + at[level][r], k);
                    unknown += rank[c];
                    r = next;
                }
            }
            i = j;
        }
    }
}

template <class S>
Represented<S>::Represented(const Tree& row_tree, const Tree& column_tree, const Basis<S>& row_basis,
                            const Basis<S>& column_basis, const Blocks<S>& near, const Blocks<S>& far, bool mirrored)
    : row_side_(row_tree, row_basis),
      column_side_(column_tree, column_basis),
      near_(near),
      far_(far),
      mirrored_(mirrored) {
    for (size_t p = 0; p < near.first.shape(0); ++p) near_pairs_[key(near.first.data()[p], near.second.data()[p])] = p;
    for (size_t p = 0; p < far.first.shape(0); ++p) far_pairs_[key(far.first.data()[p], far.second.data()[p])] = p;
}

template <class S>
Out<Wide<S>> Represented<S>::block(In<int> rows, In<int> columns) {
    row_side_.take(rows);
    column_side_.take(columns);
    const int m = static_cast<int>(rows.shape(0)), n = static_cast<int>(columns.shape(0));
    sorted_.assign(static_cast<size_t>(m) * n, C(0));
    rows_ = m;
    for (int t = 0; t < row_side_.tree.level_start.data()[1]; ++t)
        for (int s = 0; s < column_side_.tree.level_start.data()[1]; ++s)
            visit(0, t, s, row_side_.within(t, {0, m}), column_side_.within(s, {0, n}));
    std::vector<C> out(sorted_.size());
    for (int j = 0; j < n; ++j)
        for (int i = 0; i < m; ++i)
            out[static_cast<int64_t>(column_side_.order[j]) * m + row_side_.order[i]] =
                sorted_[static_cast<int64_t>(j) * m + i];
    return give(std::move(out));
}

template <class S>
void Represented<S>::visit(int level, int t, int s, Range rows, Range columns) {
    if (rows.size() == 0 || columns.size() == 0) return;
    const bool swapped = mirrored_ && t > s;
    const uint64_t pair = swapped ? key(s, t) : key(t, s);
    if (const auto far = far_pairs_.find(pair); far != far_pairs_.end()) {
        add_far(level, t, s, far->second, swapped, rows, columns);
        return;
    }
    if (row_side_.tree.leaf(t)) {
        if (const auto near = near_pairs_.find(pair); near != near_pairs_.end())
            copy_near(t, s, near->second, swapped, rows, columns);
        return;
    }
    const int t0 = row_side_.tree.first_child.data()[t], s0 = column_side_.tree.first_child.data()[s];
    for (int i = t0; i < t0 + row_side_.tree.arity; ++i) {
        const Range part = row_side_.within(i, rows);
        if (part.size() == 0) continue;
        for (int j = s0; j < s0 + column_side_.tree.arity; ++j)
            visit(level + 1, i, j, part, column_side_.within(j, columns));
    }
}

template <class S>
void Represented<S>::add_far(int level, int t, int s, int64_t pair, bool swapped, Range rows, Range columns) {
    const int k = row_side_.rank[t], l = column_side_.rank[s];
    if (k == 0 || l == 0) return;
    const C* B = widen(far_.values.data() + far_.start.data()[pair], static_cast<int64_t>(k) * l, wide_);
    const C* left = row_side_.carried[level].data() + row_side_.at[level][rows.low];             // (k, rows)
    const C* right = column_side_.carried[level].data() + column_side_.at[level][columns.low];  // (l, columns)
    product_.resize(static_cast<size_t>(rows.size()) * l);
    gemm<C>('T', swapped ? 'T' : 'N', rows.size(), l, k, C(1), left, k, B, swapped ? l : k, C(0), product_.data(),
            rows.size());
    gemm<C>('N', 'N', rows.size(), columns.size(), l, C(1), product_.data(), rows.size(), right, l, C(0),
            sorted_.data() + static_cast<int64_t>(columns.low) * rows_ + rows.low, rows_);
}

template <class S>
void Represented<S>::copy_near(int t, int s, int64_t pair, bool swapped, Range rows, Range columns) {
    const Tree &row_tree = row_side_.tree, &column_tree = column_side_.tree;
    const S* block = near_.values.data() + near_.start.data()[pair];
    const int row_start = row_tree.start.data()[t], column_start = column_tree.start.data()[s];
    const int64_t down = swapped ? column_tree.size(s) : 1, across = swapped ? 1 : row_tree.size(t);
    for (int j = columns.low; j < columns.high; ++j)
        for (int i = rows.low; i < rows.high; ++i)
            sorted_[static_cast<int64_t>(j) * rows_ + i] =
                static_cast<C>(block[down * (row_side_.places[i] - row_start) +
                                     across * (column_side_.places[j] - column_start)]);
}

template class Represented<double>;
template class Represented<float>;
template class Represented<Complex>;
template class Represented<Single>;

}  // namespace hmatrix
