// NEON beside the portable routines, for a machine that has neither the processor nor Python for it: built by
// test_neon.py with a compiler for 64-bit ARM and run by an emulator. Prints what differs; the exit code says whether
// anything does.
//
// How an output is summed does not depend on the lanes, but for long products, which have partial sums of their own:
// those are compared within the bound of two sums in any order (see routine_bound in error.py), the others bit by bit.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "buffer.hpp"
#include "layer.hpp"
#include "packing.hpp"
#include "routines.hpp"

using namespace parsimony;

namespace {

std::mt19937 generator(0);
int n_layers = 0, n_wrong = 0;

const Routines& portable() { return *find("portable"); }
const Routines& neon() { return *find("neon"); }

std::vector<float> normal(std::int64_t n) {
    std::normal_distribution<float> distribution;
    std::vector<float> numbers(n);
    for (float& x : numbers) x = distribution(generator);
    return numbers;
}

std::vector<float> magnitudes(std::vector<float> numbers) {
    for (float& x : numbers) x = std::fabs(x);
    return numbers;
}

// Numbers in either storage.
struct Numbers {
    explicit Numbers(const std::vector<float>& values, bool half) : single(values), is_half(half) {
        if (!half) return;
        narrow.resize(values.size());
        portable().float_to_half(values.data(), narrow.data(), static_cast<std::int64_t>(values.size()));
        for (std::size_t i = 0; i < values.size(); ++i) single[i] = widened(narrow[i]);
    }
    void* data() { return is_half ? static_cast<void*>(narrow.data()) : static_cast<void*>(single.data()); }
    const std::vector<float>& values() {
        for (std::size_t i = 0; i < narrow.size(); ++i) single[i] = widened(narrow[i]);
        return single;
    }
    std::vector<float> single;
    std::vector<Half> narrow;
    bool is_half;
};

std::vector<float> results(const LayerPointer& layer, Numbers& x, Numbers* residual, std::int64_t batch) {
    Numbers y(std::vector<float>(batch * layer->output_size), layer->stored.half_output);
    const Buffer<unsigned char> workspace(layer->workspace(batch));
    layer->run({x.data(), residual ? residual->data() : nullptr, y.data(), batch}, Team(1), workspace.data());
    return y.values();
}

// Run what `make(table, magnitude)` makes for both tables; `n_inputs` products per result, or 0 for bit by bit.
template <class Make>
void compare(const std::string& what, std::int64_t batch, bool half, std::int64_t n_inputs, const Make& make) {
    const LayerPointer first = make(portable(), false), second = make(neon(), false);
    const bool adds = first->stored.residual != Storage::none;
    const auto given = normal(batch * first->input_size), added = normal(batch * first->output_size);
    Numbers x(given, half), residual(added, false);
    const auto a = results(first, x, adds ? &residual : nullptr, batch);
    const auto b = results(second, x, adds ? &residual : nullptr, batch);
    bool same = std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
    if (!same && n_inputs > 0) {
        Numbers size(magnitudes(x.values()), half), size_added(magnitudes(added), false);
        const auto magnitude = results(make(portable(), true), size, adds ? &size_added : nullptr, batch);
        const double unit = std::ldexp(1.0, -24), gamma = (n_inputs + 3) * unit / (1 - (n_inputs + 3) * unit);
        same = true;
        for (std::size_t i = 0; i < a.size(); ++i) {
            const double bound = magnitude[i] * (1 + std::ldexp(1.0, -10)) * gamma;
            const double rounding = half ? std::ldexp(std::fabs(a[i]) + bound, -10) + std::ldexp(1.0, -24) : 0.0;
            same &= std::fabs(static_cast<double>(a[i]) - b[i]) <= 2 * bound + rounding;
        }
    }
    ++n_layers;
    if (same) return;
    ++n_wrong;
    std::printf("%s, batch %d, fp%d: %s\n", what.c_str(), static_cast<int>(batch), half ? 16 : 32,
                second->routine(batch).c_str());
}

// Weights in both storages, and the same without their signs.
struct Weights {
    Weights(std::int64_t outputs, std::int64_t inputs, bool half, bool relu)
        : values(normal(outputs * inputs)), bias(normal(outputs)), scale(outputs, 1.0f), stored(values, half),
          sizes(magnitudes(stored.values()), half), bias_sizes(magnitudes(bias)), outputs(outputs), inputs(inputs),
          relu(relu) {}
    Affine affine(bool magnitude) {
        Numbers& weights = magnitude ? sizes : stored;
        return {outputs, inputs, weights.data(), weights.is_half, scale.data(),
                magnitude ? bias_sizes.data() : bias.data(), relu && !magnitude};
    }
    std::vector<float> values, bias, scale;
    Numbers stored, sizes;
    std::vector<float> bias_sizes;
    std::int64_t outputs, inputs;
    bool relu;
};

void conversions() {
    std::vector<Half> every(1 << 16);
    for (std::size_t i = 0; i < every.size(); ++i) every[i] = static_cast<Half>(i);
    std::vector<float> first(every.size()), second(every.size());
    portable().half_to_float(every.data(), first.data(), every.size());
    neon().half_to_float(every.data(), second.data(), every.size());
    std::vector<float> single(1 << 20);
    for (float& x : single) {
        const std::uint32_t bits = generator();
        std::memcpy(&x, &bits, sizeof x);
    }
    std::vector<Half> third(single.size()), fourth(single.size());
    portable().float_to_half(single.data(), third.data(), single.size());
    neon().float_to_half(single.data(), fourth.data(), single.size());
    int n_different = 0;
    for (std::size_t i = 0; i < every.size(); ++i) {
        const bool both_nan = first[i] != first[i] && second[i] != second[i];
        n_different += !both_nan && std::memcmp(&first[i], &second[i], sizeof(float)) != 0;
    }
    for (std::size_t i = 0; i < single.size(); ++i) n_different += single[i] == single[i] && third[i] != fourth[i];
    if (n_different > 0) std::printf("%d conversions\n", n_different);
    n_wrong += n_different;
}

void products(bool half) {
    for (const std::int64_t inputs : {1, 7, 16, 33, 97, 1100})
        for (const std::int64_t outputs : {1, 7, 8, 17, 64}) {
            Weights weights(outputs, inputs, half, true);
            for (const std::int64_t batch : {1, 2, 5, 13})
                compare("product", batch, half, inputs, [&](const Routines& table, bool magnitude) {
                    return make_linear(table, weights.affine(magnitude), {half, half, Storage::single}, "product");
                });
        }
}

void convolutions(bool half) {
    for (const std::int64_t channels : {1, 3, 15, 16, 17, 33})
        for (const std::int64_t outputs : {1, 17, 32})
            for (const std::int64_t size : {1, 3, 7, 14})
                for (const std::int64_t kernel : {1, 3})
                    for (const std::int64_t stride : {1, 2}) {
                        const std::int64_t pad = kernel / 2, extent = (size + 2 * pad - kernel) / stride + 1;
                        const Window window{channels, size, size, extent, extent, kernel, kernel,
                                            stride,   stride, pad, pad,   1,      1,      1, pad, pad};
                        Weights weights(outputs, channels * kernel * kernel, half, false);
                        for (const std::string& routine : convolution_routines(neon(), window, outputs))
                            compare(routine, 3, half, routine == "direct" ? weights.inputs : 0,
                                    [&](const Routines& table, bool magnitude) {
                                        return make_convolution(table, weights.affine(magnitude), window,
                                                                {half, half, Storage::none}, routine);
                                    });
                    }
}

void pointwise(bool half) {
    for (const std::int64_t channels : {4, 15, 16, 33})
        for (const std::int64_t size : {3, 7, 14}) {
            const Window window{channels, size, size, size, size, 3, 3, 1, 1, 1, 1, 1, 1, channels, 1, 1};
            Weights weights(channels, 9, half, true);
            const Stored adding{half, half, Storage::single};
            compare("depthwise", 2, half, 0, [&](const Routines& table, bool) {
                return make_convolution(table, weights.affine(false), window, adding, "depthwise");
            });
            compare("addition", 2, half, 0, [&](const Routines& table, bool) {
                return make_addition(table, channels * size * size, true, {}, adding);
            });
            for (const bool average : {false, true})
                compare("pooling", 2, half, 0, [&](const Routines& table, bool) {
                    const PoolWindows windows{channels, size, size, {0, 1}, {2, 3}, {0, 1}, {2, 3}, average, false};
                    return make_pooling(table, windows, {half, half});
                });
        }
}

}  // namespace

int main() {
    conversions();
    for (const bool half : {false, true}) products(half), convolutions(half), pointwise(half);
    std::printf("%d layers, %d differ\n", n_layers, n_wrong);
    return n_wrong > 0;
}
