// The unknowns that are left, box by box, and the matrix between them: as much of it as one part holds.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <unordered_map>

#include "evaluator.hpp"
#include "precision.hpp"
#include "tree.hpp"

namespace hmatrix {

// A block (p, q), p <= q, that Schur updates have touched; all others are kernel entries.
template <class C>
struct Block {
    int m, n;
    std::vector<C> M;  // A_pq, column-major
    std::vector<C> R;  // A_qp^T, column-major: for General and p < q only
};

// Boxes of one level at a time. The part owns a range of them, and knows the unknowns of others, its ghosts. It holds
// every touched block of a box that it owns: a block between two parts is held by both.
template <class C>
class ActiveMatrix {
  public:
    // A = k(points, points) + diag(diagonal); `general`: not symmetric.
    ActiveMatrix(const KernelMatrix& matrix, const Tree& tree, In<Wide<C>> diagonal, bool general)
        : tree_(tree), general_(general), active_(tree.boxes()), partners_(tree.boxes()) {
        set_entries(matrix, diagonal);
    }

    // Takes entries between other points from now on; `diagonal` is in the order in which the matrix keeps its points.
    void set_entries(const KernelMatrix& matrix, In<Wide<C>> diagonal) {
        forward_ = matrix.evaluator<C>(false);
        if (general_) backward_ = matrix.evaluator<C>(true);
        places_ = matrix.target_places;
        diagonal_ = diagonal;
    }
    // Whether entries of all these points can be evaluated.
    bool keeps(const std::vector<int>& points) const {
        return std::all_of(points.begin(), points.end(), [this](int p) { return places_.keeps(p); });
    }

    void own(int first, int last) { first_ = first, last_ = last; }
    bool owns(int b) const { return b >= first_ && b < last_; }
    void set_points(int b, const int* points, int count) { active_[b].assign(points, points + count); }

    int size(int b) const { return static_cast<int>(active_[b].size()); }
    const std::vector<int>& points(int b) const { return active_[b]; }
    // Boxes that share a stored block with b, itself among them perhaps.
    const std::vector<int>& partners(int b) const { return partners_[b]; }
    bool stored(int p, int q) const { return blocks_.count(key(p, q)) > 0; }
    int64_t bytes() const { return numbers_ * static_cast<int64_t>(sizeof(C)); }
    // Bytes of blocks that were freed since the beginning, to be taken again by others or not.
    int64_t freed() const { return freed_ * static_cast<int64_t>(sizeof(C)); }

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
            for (int r = 0; r < m; ++r) out[static_cast<int64_t>(r) * ld + r] += static_cast<C>(diagonal_.data()[places_(active_[i][r])]);
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
        return insert(p, q, std::move(block));
    }

    // Keeps a block (p, q), p <= q, that is not stored yet.
    Block<C>& insert(int p, int q, Block<C>&& block) {
        partners_[p].push_back(q);
        if (p != q) partners_[q].push_back(p);
        numbers_ += count(block);
        return blocks_.emplace(key(p, q), std::move(block)).first->second;
    }

    // Leaves box b with the unknowns order[0], ..., order[k - 1] of it, in all blocks that it takes part in. `own` is
    // the block of these among themselves, with leading dimension n; null for a ghost.
    void shrink(int b, const int* order, int k, const C* own, int n) {
        for (int f : partners_[b]) {
            if (f == b) continue;
            Block<C>& block = blocks_.find(f < b ? key(f, b) : key(b, f))->second;
            forget(block);
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
            numbers_ += count(block);
        }
        std::vector<int> kept_points(k);
        for (int i = 0; i < k; ++i) kept_points[i] = active_[b][order[i]];
        active_[b] = std::move(kept_points);
        if (!own) return;
        const auto self = blocks_.find(key(b, b));
        if (self == blocks_.end()) partners_[b].push_back(b);
        Block<C>& block = blocks_[key(b, b)];
        forget(block);
        block.m = block.n = k;
        std::vector<C> kept(static_cast<size_t>(k) * k);  // a vector that is resized would keep its memory
        for (int j = 0; j < k; ++j)
            std::copy_n(own + static_cast<int64_t>(j) * n, k, kept.data() + static_cast<int64_t>(j) * k);
        block.M = std::move(kept);
        numbers_ += count(block);
    }

    // Joins the unknowns of a level's boxes into those of `parents`, and the blocks into those of the boxes above that
    // this part owns from now on, first ... last - 1. Children's blocks are freed as they are joined; the most that is
    // held meanwhile is reported through `note(bytes)`.
    template <class Note>
    void merge(int level, const int* parents, int n_parents, int first, int last, Note note) {
        std::unordered_map<uint64_t, Block<C>> merged;
        const int* parent = tree_.parent.data();
        const auto children = [this](int p, auto action) {
            for (int c = tree_.first_child.data()[p]; c < tree_.first_child.data()[p] + tree_.arity; ++c) action(c);
        };
        for (int i = 0; i < n_parents; ++i) {
            std::vector<int>& joined = active_[parents[i]];
            children(parents[i], [&](int c) { joined.insert(joined.end(), active_[c].begin(), active_[c].end()); });
        }
        own(first, last);
        // In the order of the boxes, in which blocks came to lie side by side: what is freed makes room for larger ones.
        for (uint64_t child_key : sorted_keys()) {
            const int p = parent[child_key >> 32], q = parent[static_cast<uint32_t>(child_key)];
            if (!owns(p) && !owns(q)) {
                release(blocks_.at(child_key));
                continue;
            }
            if (merged.count(key(p, q))) continue;
            Block<C> block{size(p), size(q), {}, {}};
            for (int way = 0; way < (general_ && p != q ? 2 : 1); ++way) {
                std::vector<C>& values = way ? block.R : block.M;
                values.resize(static_cast<size_t>(block.m) * block.n);
                int64_t column = 0;
                children(q, [&](int j) {
                    int row = 0;
                    children(p, [&](int i) {
                        if (size(i) && size(j)) fetch(i, j, values.data() + column * block.m + row, block.m, way == 1);
                        row += size(i);
                    });
                    column += size(j);
                });
            }
            numbers_ += count(block);
            note(bytes());
            children(q, [&](int j) {
                children(p, [&](int i) {
                    const auto joined = blocks_.find(i <= j ? key(i, j) : key(j, i));
                    if (joined != blocks_.end()) release(joined->second);
                });
            });
            merged.emplace(key(p, q), std::move(block));
        }
        blocks_ = std::move(merged);
        for (int b = box_start(level); b < box_start(level + 1); ++b) {
            std::vector<int>().swap(active_[b]);
            std::vector<int>().swap(partners_[b]);
        }
        for (uint64_t k : sorted_keys()) {
            const int p = static_cast<int>(k >> 32), q = static_cast<int>(static_cast<uint32_t>(k));
            partners_[p].push_back(q);
            if (p != q) partners_[q].push_back(p);
        }
    }

    // Calls action(p, q, block) for blocks that touch a box of first ... last - 1, in the order of (p, q), but for those
    // whose other box comes before and is one of not_first ... not_last - 1: it is for that box's part to give them.
    template <class Action>
    void visit(int first, int last, int not_first, int not_last, Action action) const {
        std::vector<uint64_t> keys;
        for (int b = first; b < last; ++b)
            for (int f : partners_[b]) {
                const bool inside = f >= first && f < last;
                const bool by_other = f < b && f >= not_first && f < not_last;
                if (inside ? f >= b : !by_other) keys.push_back(b <= f ? key(b, f) : key(f, b));
            }
        std::sort(keys.begin(), keys.end());
        for (uint64_t k : keys) action(static_cast<int>(k >> 32), static_cast<int>(static_cast<uint32_t>(k)), blocks_.at(k));
    }

  private:
    int box_start(int level) const { return tree_.level_start.data()[level]; }
    static uint64_t key(int p, int q) { return static_cast<uint64_t>(p) << 32 | static_cast<uint32_t>(q); }
    std::vector<uint64_t> sorted_keys() const {
        std::vector<uint64_t> keys;
        keys.reserve(blocks_.size());
        for (const auto& entry : blocks_) keys.push_back(entry.first);
        std::sort(keys.begin(), keys.end());
        return keys;
    }
    static int64_t count(const Block<C>& block) { return static_cast<int64_t>(block.M.size() + block.R.size()); }
    // Counts a block's numbers as freed.
    void forget(const Block<C>& block) { numbers_ -= count(block), freed_ += count(block); }
    void release(Block<C>& block) {
        forget(block);
        std::vector<C>().swap(block.M);
        std::vector<C>().swap(block.R);
    }

    const Tree& tree_;
    In<Wide<C>> diagonal_;
    Numbering places_;
    bool general_;
    std::unique_ptr<Evaluator<C>> forward_, backward_;
    std::vector<std::vector<int>> active_, partners_;
    std::unordered_map<uint64_t, Block<C>> blocks_;
    std::vector<C> scratch_;
    int first_ = 0, last_ = 0;
    int64_t numbers_ = 0, freed_ = 0;  // in all blocks now, and in those that were freed
};

}  // namespace hmatrix
