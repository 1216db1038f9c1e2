// Layers that own their packed weights and know which routine runs them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "buffer.hpp"
#include "routines.hpp"

namespace parsimony {

// What every layer does: take a batch of inputs to outputs. `run` allocates nothing and returns how many results were
// saturated. Not to be run by two threads at once: each layer has one scratch.
class Layer {
public:
    virtual ~Layer() = default;
    virtual std::int64_t run(const void* x, void* y, std::int64_t batch) const = 0;
    // How many numbers one run converts between binary16 and binary32, weights that are widened again included.
    virtual std::int64_t conversions(std::int64_t batch) const = 0;
    virtual std::string routine(std::int64_t batch) const = 0;

    std::int64_t input_size = 0, output_size = 0;  // numbers per sample
    bool half_input = false, half_output = false;
};

// How a layer's numbers are stored on the way in and out.
struct Storage {
    bool half_input;
    bool half_output;
};

// A linear map's parameters as they come: row-major weights (outputs, inputs), one scale and bias per output.
struct Affine {
    std::int64_t outputs, inputs;
    const void* weights;
    bool half;
    const float* scale;
    const float* bias;
    bool relu;
};

// Geometry without the derived parts of `Convolution`.
struct Window {
    std::int64_t channels, height, width, out_height, out_width;
    std::int64_t kernel_height, kernel_width, stride_height, stride_width;
    std::int64_t pad_height, pad_width, dilation_height, dilation_width;
};

struct PoolWindows {
    std::int64_t channels, height, width;
    std::vector<std::int64_t> row_start, row_end, column_start, column_end;
    bool average, relu;
};

std::shared_ptr<Layer> make_linear(const Routines&, const Affine&, Storage);
// The inputs of a convolution's weights are ordered (kernel row, kernel column, channel).
std::shared_ptr<Layer> make_convolution(const Routines&, const Affine&, const Window&, Storage);
std::shared_ptr<Layer> make_pooling(const Routines&, const PoolWindows&, Storage);

// Layers one after the other over two buffers of activations.
class Chain {
public:
    Chain(std::vector<std::shared_ptr<Layer>> layers, std::int64_t max_batch);
    std::int64_t run(const void* x, void* y, std::int64_t batch) const;
    const std::vector<std::shared_ptr<Layer>>& layers() const { return layers_; }
    std::int64_t max_batch() const { return max_batch_; }

private:
    std::vector<std::shared_ptr<Layer>> layers_;
    std::int64_t max_batch_;
    Buffer<unsigned char> between_[2];
};

}  // namespace parsimony
