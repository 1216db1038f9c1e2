// Steps of a factorization: their layout, and how a part records them.
#pragma once

#include <algorithm>
#include <vector>

#include "arrays.hpp"
#include "memory.hpp"

namespace hmatrix {

enum Kind : int { Cholesky = 0, Symmetric = 1, General = 2 };

// Steps of one part in one phase, computed in C and stored as S.
//
// One step eliminates the redundant unknowns D of a box, given its skeletons S and neighbors N = S and active unknowns
// of near boxes. Its `counts` are |D|, |S|, |N|; `index` holds D then N (S first); `values` holds, all column-major,
//   T^T (|D|, |S|); the factor of the block of D: packed lower Cholesky, else its LU (|D|, |D|); W (|N|, |D|), and for
//   General also V (|N|, |D|). Cholesky X = L L^T: W = A_ND L^-T. Else W = A_ND X^-1 and V^T = X^-1 A_DN, V = W if
//   symmetric.
template <class S>
struct Steps {
    std::vector<int> counts, pivots;
    Pages<int> index;
    Pages<S> values;
    std::vector<double> determinant{1.0, 0.0, 0.0};  // real and imaginary part of its phase, log of its size
    std::vector<int> table{0, 0, 0};                 // boxes, unknowns, skeletons
};

// Records the steps of a part one after the other, in pieces: growing a single one would hold it twice for a moment.
template <class S>
class StepLog {
  public:
    explicit StepLog(Kind kind) : kind_(kind) {}

    // Makes room for a step with |D| = d, |S| = k and |N| = rows, and counts its boxes.
    void open(int d, int k, int rows, int boxes) {
        const size_t wide = d, sides = kind_ == General ? 2 : 1;
        const size_t numbers = wide * (k + rows * sides) + (kind_ == Cholesky ? wide * (wide + 1) / 2 : wide * wide);
        if (steps_.empty() || steps_.back().values.room() < numbers) {
            tidy();
            steps_.emplace_back();
            steps_.back().values.reserve(std::max(numbers, kPiece));
            steps_.back().index.reserve(kPiece / 8);
        }
        std::vector<int>& table = steps_.back().table;
        table[0] += boxes, table[1] += d + k, table[2] += k;
    }

    // The determinant of the piece that is open.
    std::vector<double>& determinant() { return steps_.back().determinant; }

    // Begins the step that `open` made room for: D, N, T^T, and X factorized with its pivots.
    template <class C>
    void begin(const std::vector<int>& redundant, const std::vector<int>& neighbors, int k, const C* TT,
               const std::vector<C>& X, const std::vector<int>& pivots) {
        const int d = static_cast<int>(redundant.size()), rows = static_cast<int>(neighbors.size());
        Steps<S>& steps = steps_.back();
        steps.counts.insert(steps.counts.end(), {d, k, rows});
        int* index = steps.index.add(redundant.size() + neighbors.size());
        std::copy(neighbors.begin(), neighbors.end(), std::copy(redundant.begin(), redundant.end(), index));
        bytes_ += static_cast<int64_t>((3 + d + rows + pivots.size()) * sizeof(int));
        add(TT, static_cast<int64_t>(d) * k);
        if (kind_ == Cholesky) {
            for (int j = 0; j < d; ++j) add(X.data() + static_cast<int64_t>(j) * (d + 1), d - j);
        } else {
            add(X.data(), static_cast<int64_t>(X.size()));
            steps.pivots.insert(steps.pivots.end(), pivots.begin(), pivots.end());
        }
    }

    // Adds numbers to the values of the step that was begun last.
    template <class C>
    void add(const C* from, int64_t count) {
        S* to = steps_.back().values.add(count);
        for (int64_t i = 0; i < count; ++i) to[i] = static_cast<S>(from[i]);
        bytes_ += count * static_cast<int64_t>(sizeof(S));
    }

    // Gives back the room that the last piece does not need.
    void tidy() {
        if (steps_.empty()) return;
        steps_.back().values.trim();
        steps_.back().index.trim();
    }

    // Hands everything to Python: a list of tuples (counts, index, values, pivots, determinant, table).
    nb::list hand_out() {
        tidy();
        nb::list result;
        for (Steps<S>& s : steps_)
            result.append(nb::make_tuple(give(std::move(s.counts)), give(std::move(s.index)),
                                         give(std::move(s.values)), give(std::move(s.pivots)),
                                         give(std::move(s.determinant)), give(std::move(s.table))));
        steps_.clear();
        return result;
    }

    // Bytes of all steps that were recorded, those handed out included.
    int64_t bytes() const { return bytes_; }

  private:
    static constexpr size_t kPiece = 1 << 18;  // numbers

    Kind kind_;
    std::vector<Steps<S>> steps_;
    int64_t bytes_ = 0;
};

}  // namespace hmatrix
