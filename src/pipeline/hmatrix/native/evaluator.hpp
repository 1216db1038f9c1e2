// Blocks of the kernel matrix: k(targets[rows], sources[columns]).
#pragma once

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <vector>

#include "arrays.hpp"
#include "blas.hpp"
#include "loops.hpp"

namespace hmatrix {

// Evaluates into `out` (m, n), column-major. Not safe to share between threads: it keeps scratch.
template <class C>
struct Evaluator {
    virtual ~Evaluator() = default;
    virtual void block(const int* rows, int m, const int* columns, int n, C* out) = 0;
};

// One step of a kernel's evaluation on a stack of blocks: a radial function is pushed, the rest acts on the top.
struct Step {
    int operation;                   // a Radial, or one of the below
    std::vector<double> parameters;  // of the function
    std::vector<double> weights;     // of the squared distance, one per coordinate
};
constexpr int kWave = 50, kAdd = 100, kMultiply = 101, kScale = 102;

// Entries added to the kernel's, by rows.
struct Sparse {
    In<int64_t> start;
    In<int> columns;
    In<Complex> values;
};

// Where a point is kept that the tree order numbers: all of them are, or a range of places and some others behind it.
struct Numbering {
    int first = 0, last = 0;  // the range; without `others`, all places are kept
    const int* others = nullptr;
    int64_t n_others = 0;

    int64_t operator()(int place) const {
        if (!others) return place;
        if (place >= first && place < last) return place - first;
        const int* found = std::lower_bound(others, others + n_others, place);
        if (found == others + n_others || *found != place) throw std::out_of_range("a point that is not kept here");
        return last - first + (found - others);
    }
    bool keeps(int place) const {
        return !others || (place >= first && place < last) || std::binary_search(others, others + n_others, place);
    }
};

// Kernel, points and how to evaluate them, as Python holds it. Points are (d, n), in tree order.
class KernelMatrix {
  public:
    KernelMatrix(In2<double> targets, In2<double> sources, nb::list steps, nb::object function);

    // Says that targets, sources or both are the points at places first ... last - 1 of the tree order, and then those
    // at `others`, sorted. Blocks of other places throw std::out_of_range.
    void keep(int first, int last, In<int> others, bool as_targets, bool as_sources);

    // Blocks of k, or with `transposed` of its transpose.
    template <class C>
    std::unique_ptr<Evaluator<C>> evaluator(bool transposed) const;

    void correct(In<int64_t> start, In<int> columns, In<Complex> values, In<int64_t> transposed_start,
                 In<int> transposed_columns, In<Complex> transposed_values);

    In2<double> targets, sources;
    Numbering target_places, source_places;
    std::vector<In<int>> kept;  // holds what the numberings point to
    std::vector<Step> steps;
    std::vector<Sparse> correction;  // none, or the matrix and its transpose
    nb::object function;             // called where there are no steps: function(rows, columns, out) fills out (n, m)

  private:
    template <class C>
    std::unique_ptr<Evaluator<C>> plain(bool transposed) const;
};

}  // namespace hmatrix
