// Strong recursive skeletonization: a matrix factorized box by box, in near-linear time, by one part or several.
#pragma once

#include <atomic>
#include <optional>

#include "active.hpp"
#include "adaptive.hpp"
#include "evaluator.hpp"
#include "pivots.hpp"
#include "precision.hpp"
#include "steps.hpp"
#include "tree.hpp"

namespace hmatrix {

// What the parts of one process share while they work: how many boxes are done, and whether to stop.
class Watch {
  public:
    // `progress` is called with boxes done and in all, or is None.
    Watch(nb::object progress, int total) : progress_(progress), total_(total) {}

    // Counts a box. The thread that is `watching` lets the user interrupt, and tells of progress; what is thrown there
    // makes the other threads stop at their next box.
    void heed(bool watching);
    void stop() { stopped_ = true; }

  private:
    nb::object progress_;
    int total_;
    std::atomic<int> done_{0};
    std::atomic<bool> stopped_{false};
};

struct Stopped : std::runtime_error {
    Stopped() : std::runtime_error("stopped, because another thread has failed") {}
};

// What others have to know of the boxes that a part eliminated in a phase, one record after the other.
//
// `ints`: box, unknowns before, skeletons, rows |N|, 1 if updates follow else 0, the skeletons' places among the
// unknowns before. `values`: for those with updates the left factor (|N|, |D|), and but for Cholesky the right one.
template <class S>
struct Records {
    std::vector<int> ints;
    std::vector<S> values;
    std::vector<int64_t> int_start{0}, value_start{0};  // of each box
};

struct PartOptions {
    Kind kind;
    double budget;  // squared Frobenius norm that one box may lose
    double rows;    // far points sampled for a box, at first
    bool gives_back;  // what blocks leave free goes back to the system now and then
};

// Whom a box's elimination concerns.
enum Told : int { Nobody = 0, Sizes = 1, Updates = 2 };

// Factorizes its share of k(points, points) + diag(diagonal), level by level: `eliminate` and `apply` in turns, phase
// by phase, then `merge`; at the top `finish`. One part over everything is the serial factorization.
//
// A part needs the unknowns of the boxes that it owns and of those within two near-steps of them. It touches Python
// only where the kernel is a Python function, and through its `Watch`.
template <class C, class S>
class Part {
  public:
    Part(const KernelMatrix& matrix, const Tree& tree, In<int64_t> near_start, In<int> near_boxes,
         In<int64_t> far_start, In<int> far_boxes, In<Wide<C>> diagonal, const PartOptions& options);

    // Takes entries of other points from now on, as `ActiveMatrix::set_entries` says.
    void set_entries(const KernelMatrix& matrix, In<Wide<C>> diagonal) { matrix_.set_entries(matrix, diagonal); }
    void own(int first, int last) { matrix_.own(first, last); }
    // Unknowns of boxes, flat: box i's are points[start[i]] ... points[start[i + 1] - 1].
    void set_points(In<int> boxes, In<int64_t> start, In<int> points);
    nb::tuple points(In<int> boxes) const;
    int64_t unknowns(int first, int last) const;

    // Eliminates own boxes in this order; `told` says whom each concerns. Returns (done, failure): how many boxes were
    // eliminated before one whose sample has points that are not kept here, and None or (point, pivot) where a pivot is
    // not positive (Cholesky) or vanishes.
    nb::tuple eliminate(In<int> boxes, In<int> told, Watch& watch, bool watching);
    // Returns what was done since the last call (steps, records): a list of tuples (counts, index, values, pivots,
    // determinant, table), and the vectors of `Records` (int_start, ints, value_start, values).
    nb::tuple take();
    // Does to the blocks of this part what other parts' eliminations ask for.
    void apply(In<int> ints, In<S> values);

    // Blocks that touch a box of first ... last - 1, but for those whose other box comes before and is one of not_first
    // ... not_last - 1: (ints with p, q, m, n of each; values, M and for General and p < q also R).
    nb::tuple blocks(int first, int last, int not_first, int not_last) const;
    void add_blocks(In<int> ints, In<C> values);

    // Joins children into `parents`, those within two near-steps of first ... last - 1, which this part owns then.
    void merge(int level, In<int> parents, int first, int last);
    // Factorizes what is left in the boxes first ... last - 1 densely; returns like `eliminate`, without records.
    nb::tuple finish(int first, int last);

    double flops() const { return flops_; }
    // Bytes of blocks and of all steps, now and at most.
    int64_t bytes() const { return matrix_.bytes() + steps_.bytes(); }
    int64_t peak() const { return peak_; }

  private:
    struct Missing {};  // a point that is not kept here
    struct Work;

    int size(int b) const { return matrix_.size(b); }
    bool general() const { return options_.kind == General; }
    Interpolation<C> compress(int b);
    void list_neighbors(int b, int k);
    void eliminate_box(int b, Told told);
    void stack(int b, const Interpolation<C>& basis, int rows, bool flip, std::vector<C>& W, std::vector<C>& NS);
    std::vector<int> neighbors(int b, const int* order, int k) const;
    void tell(std::vector<C>& M);
    void keep_near(int b, int k, int rows);
    void update(const C* left, const C* right, int rows, int d);
    void give_back();
    void note(int64_t more = 0) { peak_ = std::max(peak_, bytes() + more); }

    Tree tree_;
    In<int64_t> near_start_, far_start_;
    In<int> near_boxes_, far_boxes_;
    Lists near_, far_;
    FarSampler sampler_;
    PartOptions options_;
    bool calls_python_;
    ActiveMatrix<C> matrix_;
    StepLog<S> steps_;
    Records<S> records_;
    std::vector<int> parts_, offsets_;
    std::vector<C> W_, V_, NS_, NR_, N_, left_, right_, solved_, far_rows_;
    AdaptiveScratch<C> scratch_;
    double flops_ = 0;
    int64_t peak_ = 0, given_back_ = 0;  // bytes that had been freed when free memory was last given back
};

}  // namespace hmatrix
