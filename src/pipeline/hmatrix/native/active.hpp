// The unknowns that are left, box by box, and the matrix between them.
#pragma once

#include <algorithm>
#include <unordered_map>

#include "evaluator.hpp"
#include "tree.hpp"

namespace hmatrix {

// A block (p, q), p <= q, that Schur updates have touched; all others are kernel entries.
template <class C>
struct Block {
    int m, n;
    std::vector<C> M;  // A_pq, column-major
    std::vector<C> R;  // A_qp^T, column-major: for General and p < q only
};

template <class C>
class ActiveMatrix {
  public:
    // A = k(points, points) + diag(diagonal); `general`: not symmetric.
    ActiveMatrix(const KernelMatrix& matrix, const Tree& tree, std::vector<C> diagonal, bool general)
        : tree_(tree),
          diagonal_(std::move(diagonal)),
          general_(general),
          forward_(matrix.evaluator<C>(false)),
          backward_(general ? matrix.evaluator<C>(true) : nullptr),
          active_(tree.boxes()),
          partners_(tree.boxes()) {
        for (int b = box_start(tree.levels() - 1); b < tree.boxes(); ++b)
            for (int i = tree.start.data()[b]; i < tree.stop.data()[b]; ++i) active_[b].push_back(i);
    }

    int size(int b) const { return static_cast<int>(active_[b].size()); }
    const std::vector<int>& points(int b) const { return active_[b]; }
    // Boxes that share a stored block with b, itself among them perhaps.
    const std::vector<int>& partners(int b) const { return partners_[b]; }
    bool stored(int p, int q) const { return blocks_.count(key(p, q)) > 0; }

    // Writes kernel rows k(points, b), or with `flip` k(b, points)^T, into out (points, size(b)).
    void kernel_rows(const std::vector<int>& points, int b, C* out, bool flip) {
        (flip && general_ ? backward_ : forward_)
            ->block(points.data(), static_cast<int>(points.size()), active_[b].data(), size(b), out);
    }

    // Writes A_ij, or with `flip` A_ji^T, into out (size(i), size(j)) with leading dimension ld.
    void fetch(int i, int j, C* out, int ld, bool flip) {
        const int m = size(i), n = size(j);
        const auto found = blocks_.find(i <= j ? key(i, j) : key(j, i));
        if (found != blocks_.end()) {
            const Block<C>& block = found->second;
            const bool second = general_ && i != j && (i < j) == flip;
            const C* from = (second ? block.R : block.M).data();
            if (i == j && flip) {
                for (int c = 0; c < n; ++c)
                    for (int r = 0; r < m; ++r)
                        out[static_cast<int64_t>(c) * ld + r] = from[static_cast<int64_t>(r) * n + c];
            } else if (i <= j) {
                for (int c = 0; c < n; ++c)
                    std::copy_n(from + static_cast<int64_t>(c) * m, m, out + static_cast<int64_t>(c) * ld);
            } else {
                for (int c = 0; c < n; ++c)
                    for (int r = 0; r < m; ++r)
                        out[static_cast<int64_t>(c) * ld + r] = from[static_cast<int64_t>(r) * n + c];
            }
            return;
        }
        auto& evaluate = flip && general_ ? *backward_ : *forward_;
        if (ld == m) {
            evaluate.block(active_[i].data(), m, active_[j].data(), n, out);
        } else {
            scratch_.resize(static_cast<size_t>(m) * n);
            evaluate.block(active_[i].data(), m, active_[j].data(), n, scratch_.data());
            for (int c = 0; c < n; ++c)
                std::copy_n(scratch_.data() + static_cast<int64_t>(c) * m, m, out + static_cast<int64_t>(c) * ld);
        }
        if (i == j)
            for (int r = 0; r < m; ++r) out[static_cast<int64_t>(r) * ld + r] += diagonal_[active_[i][r]];
    }

    Block<C>& ensure(int p, int q) {
        const auto found = blocks_.find(key(p, q));
        if (found != blocks_.end()) return found->second;
        Block<C> block{size(p), size(q), {}, {}};
        const size_t count = static_cast<size_t>(block.m) * block.n;
        block.M.resize(count);
        fetch(p, q, block.M.data(), block.m, false);
        if (general_ && p != q) {
            block.R.resize(count);
            fetch(p, q, block.R.data(), block.m, true);
        }
        partners_[p].push_back(q);
        if (p != q) partners_[q].push_back(p);
        return blocks_.emplace(key(p, q), std::move(block)).first->second;
    }

    // Keeps a block (p, q), p <= q, that is not stored yet.
    void insert(int p, int q, Block<C>&& block) {
        partners_[p].push_back(q);
        if (p != q) partners_[q].push_back(p);
        blocks_.emplace(key(p, q), std::move(block));
    }

    // Leaves box b with the unknowns order[0], ..., order[k - 1] of it, in all blocks that it takes part in. `own` is
    // the block of these among themselves, with leading dimension n.
    void shrink(int b, const int* order, int k, const C* own, int n) {
        for (int f : partners_[b]) {
            if (f == b) continue;
            Block<C>& block = blocks_.find(f < b ? key(f, b) : key(b, f))->second;
            for (auto* values : {&block.M, &block.R}) {
                if (values->empty()) continue;
                std::vector<C> kept;
                if (b < f) {
                    kept.resize(static_cast<size_t>(k) * block.n);
                    for (int j = 0; j < block.n; ++j)
                        for (int i = 0; i < k; ++i)
                            kept[static_cast<int64_t>(j) * k + i] =
                                (*values)[static_cast<int64_t>(j) * block.m + order[i]];
                } else {
                    kept.resize(static_cast<size_t>(block.m) * k);
                    for (int j = 0; j < k; ++j)
                        std::copy_n(values->data() + static_cast<int64_t>(order[j]) * block.m, block.m,
                                    kept.data() + static_cast<int64_t>(j) * block.m);
                }
                *values = std::move(kept);
            }
            (b < f ? block.m : block.n) = k;
        }
        std::vector<int> kept_points(k);
        for (int i = 0; i < k; ++i) kept_points[i] = active_[b][order[i]];
        active_[b] = std::move(kept_points);
        const auto self = blocks_.find(key(b, b));
        if (self == blocks_.end()) partners_[b].push_back(b);
        Block<C>& block = blocks_[key(b, b)];
        block.m = block.n = k;
        block.M.resize(static_cast<size_t>(k) * k);
        for (int j = 0; j < k; ++j)
            std::copy_n(own + static_cast<int64_t>(j) * n, k, block.M.data() + static_cast<int64_t>(j) * k);
    }

    // Joins the children's unknowns and blocks into their parents'.
    void merge(int level) {
        std::unordered_map<uint64_t, Block<C>> merged;
        const int* parent = tree_.parent.data();
        const int above = box_start(level - 1);
        for (int p = above; p < box_start(level); ++p)
            for (int c = tree_.first_child.data()[p]; c < tree_.first_child.data()[p] + tree_.arity; ++c)
                active_[p].insert(active_[p].end(), active_[c].begin(), active_[c].end());
        for (const auto& entry : blocks_) {
            const int p = parent[entry.first >> 32], q = parent[static_cast<uint32_t>(entry.first)];
            if (merged.count(key(p, q))) continue;
            Block<C>& block = merged[key(p, q)];
            block.m = size(p), block.n = size(q);
            for (int way = 0; way < (general_ && p != q ? 2 : 1); ++way) {
                std::vector<C>& values = way ? block.R : block.M;
                values.resize(static_cast<size_t>(block.m) * block.n);
                int64_t column = 0;
                for (int j = tree_.first_child.data()[q]; j < tree_.first_child.data()[q] + tree_.arity; ++j) {
                    int row = 0;
                    for (int i = tree_.first_child.data()[p]; i < tree_.first_child.data()[p] + tree_.arity; ++i) {
                        if (size(i) && size(j)) fetch(i, j, values.data() + column * block.m + row, block.m, way == 1);
                        row += size(i);
                    }
                    column += size(j);
                }
            }
        }
        blocks_ = std::move(merged);
        for (const auto& entry : blocks_) {
            const int p = static_cast<int>(entry.first >> 32), q = static_cast<int>(static_cast<uint32_t>(entry.first));
            partners_[p].push_back(q);
            if (p != q) partners_[q].push_back(p);
        }
        for (int b = box_start(level); b < box_start(level + 1); ++b) {
            std::vector<int>().swap(active_[b]);
            std::vector<int>().swap(partners_[b]);
        }
    }

  private:
    int box_start(int level) const { return tree_.level_start.data()[level]; }
    static uint64_t key(int p, int q) { return static_cast<uint64_t>(p) << 32 | static_cast<uint32_t>(q); }

    const Tree& tree_;
    std::vector<C> diagonal_;
    bool general_;
    std::unique_ptr<Evaluator<C>> forward_, backward_;
    std::vector<std::vector<int>> active_, partners_;
    std::unordered_map<uint64_t, Block<C>> blocks_;
    std::vector<C> scratch_;
};

}  // namespace hmatrix
