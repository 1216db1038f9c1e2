// A cluster tree and its far lists, as views of NumPy arrays.
#pragma once

#include <algorithm>
#include <unordered_set>
#include <vector>

#include "arrays.hpp"

namespace hmatrix {

// Boxes are numbered level by level from the top; points are in tree order, so that a box is a range of them.
struct Tree {
    In<int> level_start;       // (levels + 1,): boxes of level l are level_start[l] ... level_start[l + 1] - 1
    In<int> start, stop;       // (boxes,): points of a box
    In<int> parent;            // (boxes,): -1 at the top
    In<int> first_child;       // (boxes,): -1 at the leaves
    In2<double> lower, upper;  // (boxes, d): bounds of the points
    int arity;                 // children of every box that is not a leaf

    int levels() const { return static_cast<int>(level_start.shape(0)) - 1; }
    int boxes() const { return static_cast<int>(start.shape(0)); }
    bool leaf(int b) const { return first_child.data()[b] < 0; }
    int size(int b) const { return stop.data()[b] - start.data()[b]; }
};

// Rows that stand for a box's whole far field, each for `weight` of them.
struct FarSample {
    std::vector<int> points;
    std::vector<double> weights;
    bool complete = true;  // nothing was left out
};

// Samples the far field of a box: all of it, but more of what is near. Large boxes are entered as their children where
// these differ in distance; each is sampled evenly along its range, which the tree order makes even in space. Ranges
// are those of repeated halving, and the point that stands for one is the same for all boxes: a part of the matrix needs
// few points of the others.
class FarSampler {
  public:
    FarSampler(const Tree& own, const Tree& other, const Lists& far) : own_(own), other_(other), far_(far) {}

    // About `rows` points, and at least two of every box entered; all of a box that is close for its size. Samples of
    // different rounds are independent.
    void sample(int box, double rows, int round, FarSample& out);
    // Leaves out of samples of one round what earlier ones had of the same box, and boxes in first ... last - 1: for
    // those who want to know which other points are in any of them.
    void collect_outside(int first, int last) { collecting_ = true, first_ = first, last_ = last; }

  private:
    struct Entry {
        int box;
        double distance, share;
        bool close;
    };
    void enter(int box, int c);
    double distance(int box, int c) const;
    bool left_out(int c, int parts);

    const Tree &own_, &other_;
    const Lists& far_;
    double size_ = 0;  // the box's diameter
    bool collecting_ = false;
    int first_ = 0, last_ = 0;
    std::unordered_set<uint64_t> collected_;  // boxes and the number of parts that were sampled
    std::vector<Entry> entries_;
};

// Samples several boxes: (start (boxes + 1,), points, weights, complete (boxes,)), one box after the other.
nb::tuple sample_far(const Tree& own, const Tree& other, const Lists& far, In<int> boxes, double rows, int round);
// The distinct points in samples of several boxes that are outside first ... last - 1, sorted. Takes memory for these
// alone, where one sample after the other would take a multiple of what the boxes' matrix does.
Out<int> sampled_outside(const Tree& own, const Tree& other, const Lists& far, In<int> boxes, double rows, int round,
                         int first, int last);

}  // namespace hmatrix
