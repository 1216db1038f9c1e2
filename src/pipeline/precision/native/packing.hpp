// Weights in panels, workspaces cut into scratch, and work cut into parts: what layers are made of.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>

#include "layer.hpp"

namespace parsimony {

inline std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

template <class Weight>
const WeightRoutines<Weight>& routines_of(const Routines& table) {
    if constexpr (std::is_same_v<Weight, Half>)
        return table.half;
    else if constexpr (std::is_same_v<Weight, float>)
        return table.single;
    else if constexpr (std::is_same_v<Weight, BrainPair>)
        return table.brain;
    else
        return table.split;
}

// Numbers per packed weight.
template <class Weight>
constexpr std::int64_t depth_of = std::is_same_v<Weight, BrainPair> || std::is_same_v<Weight, SplitPair> ? 2 : 1;

// How many copies of the activations a product needs: split ones have high and low parts.
template <class Weight>
constexpr std::int64_t copies_of = std::is_same_v<Weight, SplitPair> ? 2 : 1;

// Rows and pairs of a tile of AMX, which may read, though not use, so many more than there are.
constexpr std::int64_t spare = 16;

template <class Weight>
constexpr const char* storage_name = std::is_same_v<Weight, Half>    ? "fp16"
                                     : copies_of<Weight> == 2        ? "split"
                                     : depth_of<Weight> == 2         ? "bf16"
                                                                     : "fp32";

inline int max_rows(const Routines& table, int vectors) {
    return table.max_rows[vectors == 1 ? 0 : vectors == 2 ? 1 : 2];
}

// The width of a panel that wastes least on outputs which are not there. A narrow panel makes more loads per
// multiply-add, which costs it a little; a wide one leaves registers for few rows, so it is taken only where the rows
// are no more than that.
inline int vectors_for(const Routines& table, std::int64_t outputs, std::int64_t rows) {
    const auto cost = [&](int vectors, double loads) {
        return loads * ceil_divide(outputs, vectors * table.lanes) * vectors;
    };
    const double one = cost(1, 1.2), two = cost(2, 1.02), four = cost(4, 1.0);
    if (table.max_rows[2] > 0 && rows <= table.max_rows[2] && four <= std::min(one, two)) return 4;
    return one < two ? 1 : 2;
}

// Widen a binary16, in software: for weights that are packed once.
inline float widened(Half h) {
    const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest < 0x0400) {
        const float subnormal = static_cast<float>(rest) * 0x1p-24f;
        return sign ? -subnormal : subnormal;
    }
    const std::uint32_t bits = sign | (rest >= 0x7c00 ? 0x7f800000 | (rest & 0x3ff) << 13 : (rest << 13) + (112 << 23));
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// Round to bfloat16, nearest even; NaN stays NaN.
inline std::uint32_t brain(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (x != x) return bits >> 16 | 0x40;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline float from_brain(std::uint32_t bits) {
    const std::uint32_t wide = bits << 16;
    float x;
    std::memcpy(&x, &wide, sizeof x);
    return x;
}

inline float weight_at(const Affine& affine, std::int64_t i) {
    return affine.half ? widened(static_cast<const Half*>(affine.weights)[i])
                       : static_cast<const float*>(affine.weights)[i];
}

// Scale and bias padded to whole panels.
class Coefficients {
public:
    Coefficients(const Affine& affine, std::int64_t groups, std::int64_t width) : relu_(affine.relu), activation_(affine.activation) {
        const std::int64_t per_group = affine.outputs / groups, padded = ceil_divide(per_group, width) * width;
        scale_ = Buffer<float>(groups * padded);
        bias_ = Buffer<float>(groups * padded);
        for (std::int64_t g = 0; g < groups; ++g) {
            std::copy_n(affine.scale + g * per_group, per_group, scale_.data() + g * padded);
            std::copy_n(affine.bias + g * per_group, per_group, bias_.data() + g * padded);
        }
    }
    Epilogue epilogue(const void* residual, Storage storage) const {
        return {scale_.data(), bias_.data(), {residual, storage == Storage::half}, relu_, activation_};
    }
    float* scale() { return scale_.data(); }

private:
    Buffer<float> scale_, bias_;
    bool relu_;
    Activation activation_;
};

// Weights in panels.
template <class Weight>
class Packed {
public:
    Packed(const Routines& table, const Affine& affine, std::int64_t groups, int vectors)
        : coefficients(affine, groups, vectors * table.lanes) {
        constexpr std::int64_t depth = depth_of<Weight>;
        const std::int64_t width = vectors * table.lanes, inputs = ceil_divide(affine.inputs, depth);
        const std::int64_t per_group = affine.outputs / groups, panels_per_group = ceil_divide(per_group, width);
        n_panels = groups * panels_per_group;
        n_weights_ = n_panels * width * inputs;
        weights_ = Buffer<Weight>(n_weights_ + (depth == 2 ? spare * width : 0));
        panels = {weights_.data(), groups, per_group, inputs, vectors};
        for (std::int64_t o = 0; o < affine.outputs; ++o) {
            const std::int64_t inside = o % per_group, panel = o / per_group * panels_per_group + inside / width;
            Weight* column = weights_.data() + panel * width * inputs + inside % width;
            for (std::int64_t k = 0; k < affine.inputs; ++k) {
                const std::int64_t from = o * affine.inputs + k;
                if constexpr (copies_of<Weight> == 2) {
                    auto* line = reinterpret_cast<BrainPair*>(weights_.data() + (panel * inputs + k / 2) * width);
                    const float weight = weight_at(affine, from);
                    const std::uint32_t high = brain(weight), low = brain(weight - from_brain(high));
                    line[inside % width] |= high << k % 2 * 16;
                    line[width + inside % width] |= low << k % 2 * 16;
                } else if constexpr (depth == 2)
                    column[k / 2 * width] |= brain(weight_at(affine, from)) << k % 2 * 16;
                else
                    column[k * width] = static_cast<const Weight*>(affine.weights)[from];
            }
        }
    }
    std::int64_t n_bytes() const { return n_weights_ * static_cast<std::int64_t>(sizeof(Weight)); }
    std::int64_t n_weights() const { return n_weights_; }

    Panels<Weight> panels;
    std::int64_t n_panels;
    Coefficients coefficients;

private:
    Buffer<Weight> weights_;
    std::int64_t n_weights_ = 0;
};

// How large a widened piece of a panel is, in numbers; 0: always widened in registers.
template <class Weight>
std::int64_t widened_size(const Routines& table, std::int64_t n) {
    return std::is_same_v<Weight, Half> && n <= table.widen_at_most ? n : 0;
}

// Lengths, in numbers, of the parts of a thread's scratch.
struct ScratchSize {
    std::int64_t activations, panel, sums;

    static std::int64_t lines(std::int64_t n) { return ceil_divide(n, 16) * 16; }
    std::size_t bytes() const {
        // A tile may fetch, though not use, what lies behind its activations.
        return static_cast<std::size_t>(lines(activations) + lines(panel) + lines(sums) + 64) * sizeof(float);
    }
    Scratch at(unsigned char* workspace, int thread) const {
        auto* data = reinterpret_cast<float*>(workspace + thread * bytes());
        float* after = data + lines(activations);
        return {data, panel > 0 ? after : nullptr, after + lines(panel)};
    }
};

// Numbers that are worth a thread of their own: some microseconds' work, where handing it over takes one at least.
constexpr std::int64_t worth_a_thread = 1 << 17;

// Cut items and panels into one part per thread and add up what the parts saturated. Items are cut if every thread then
// has at least `grain` of them, for they share weights; otherwise panels are. Without panels, there are only as many
// parts as have `grain` items.
template <class Work>
std::int64_t share(const Team& team, std::int64_t items, std::int64_t grain, std::int64_t panels, const Work& work) {
    const bool by_items = panels < 2 || items >= team.size() * grain;
    const std::int64_t n = panels < 2 ? std::clamp<std::int64_t>(items / grain, 1, team.size()) : team.size();
    if (n == 1) return work(Part{0, items, 0, panels}, 0);
    std::atomic<std::int64_t> saturated{0};
    Team(static_cast<int>(n)).run([&](int thread) {
        Part part{0, items, 0, panels};
        if (by_items)
            part.begin = items * thread / n, part.end = items * (thread + 1) / n;
        else
            part.panel_begin = panels * thread / n, part.panel_end = panels * (thread + 1) / n;
        if (part.begin < part.end && part.panel_begin < part.panel_end) saturated += work(part, thread);
    });
    return saturated;
}

inline std::string tile_name(const Routines& table, int vectors, const char* storage) {
    return std::to_string(vectors * table.lanes) + " outputs wide, " + storage + " weights, " + table.name;
}

}  // namespace parsimony
