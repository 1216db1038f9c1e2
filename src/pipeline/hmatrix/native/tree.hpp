// A cluster tree and its far lists, as views of NumPy arrays.
#pragma once

#include <algorithm>
#include <vector>

#include "arrays.hpp"

namespace hmatrix {

// Boxes are numbered level by level from the top; points are in tree order, so that a box is a range of them.
struct Tree {
    In<int> level_start;  // (levels + 1,): boxes of level l are level_start[l] ... level_start[l + 1] - 1
    In<int> start, stop;  // (boxes,): points of a box
    In<int> parent;       // (boxes,): -1 at the top
    In<int> first_child;  // (boxes,): -1 at the leaves
    int arity;            // children of every box that is not a leaf

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

// Samples the far field of a box: the far boxes of its own level densely, those of its ancestors ever more thinly,
// each evenly along its range, which the tree order makes even in space.
inline void sample_far_field(const Tree& own, const Tree& other, const Lists& far, int box, double rows, FarSample& out) {
    out.points.clear();
    out.weights.clear();
    out.complete = true;
    uint32_t state = 2654435761u * (static_cast<uint32_t>(box) + 1u);
    for (int b = box; b >= 0; b = own.parent.data()[b], rows *= 0.5) {
        const int count = far.size(b);
        if (count == 0) {
            rows *= 2;
            continue;
        }
        const int quota = std::max(3, static_cast<int>(rows / count + 0.5));
        for (int i = 0; i < count; ++i) {
            const int c = far.begin(b)[i], first = other.start.data()[c], size = other.size(c);
            const int taken = std::min(size, quota);
            if (taken < size) out.complete = false;
            for (int t = 0; t < taken; ++t) {
                const int64_t low = static_cast<int64_t>(t) * size / taken, high = static_cast<int64_t>(t + 1) * size / taken;
                state = state * 1664525u + 1013904223u;
                out.points.push_back(first + static_cast<int>(low + (state >> 8) % static_cast<uint32_t>(high - low)));
                out.weights.push_back(static_cast<double>(high - low));
            }
        }
    }
}

}  // namespace hmatrix
