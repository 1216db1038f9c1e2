// Entries of a matrix from its H2 representation, so that a matrix without a kernel can be factorized as if it had one.
#pragma once

#include <unordered_map>

#include "product.hpp"

namespace hmatrix {

template <class S>
class Represented {
  public:
    using C = Wide<S>;
    Represented(const Tree& row_tree, const Tree& column_tree, const Basis<S>& row_basis, const Basis<S>& column_basis,
                const Blocks<S>& near, const Blocks<S>& far, bool mirrored);

    // The block of chosen places of the tree order, flat and column-major (rows, columns). Costs O(k^2) for each row and
    // column and level, and O(k) for each far entry.
    Out<C> block(In<int> rows, In<int> columns);

  private:
    struct Range {
        int low, high;
        int size() const { return high - low; }
    };
    // One side: bases by rows, U_b of shape (unknowns, rank) row-major, and what they make of the places of a block.
    struct Side {
        Tree tree;
        std::vector<int> rank;
        std::vector<int64_t> start;  // of U_b in `rows`
        std::vector<C> rows;

        std::vector<int> order, places;       // of the block's places, sorted: where each came from, and itself
        std::vector<std::vector<C>> carried;  // by levels: each place's coefficients of its box, one after the other
        std::vector<std::vector<int64_t>> at;

        Side(const Tree& tree, const Basis<S>& basis);
        void take(In<int> chosen);
        // Those of a range of places that lie in box b.
        Range within(int b, Range range) const;
    };

    // `swapped`: the pair is kept as (s, t).
    void visit(int level, int t, int s, Range rows, Range columns);
    void add_far(int level, int t, int s, int64_t pair, bool swapped, Range rows, Range columns);
    void copy_near(int t, int s, int64_t pair, bool swapped, Range rows, Range columns);
    static uint64_t key(int t, int s) { return static_cast<uint64_t>(t) << 32 | static_cast<uint32_t>(s); }

    Side row_side_, column_side_;
    Blocks<S> near_, far_;
    bool mirrored_;
    std::unordered_map<uint64_t, int64_t> near_pairs_, far_pairs_;
    int rows_ = 0;
    std::vector<C> sorted_, wide_, product_;
};

}  // namespace hmatrix
