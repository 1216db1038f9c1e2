// Layers that own their packed weights and know which routine runs them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "buffer.hpp"
#include "routines.hpp"
#include "threads.hpp"

namespace parsimony {

// How an array is stored; `none` where there is no such array.
enum class Storage { none, half, single };

// How a layer's numbers are stored on the way in and out. The residual is added before the ReLU.
struct Stored {
    bool half_input;
    bool half_output;
    Storage residual = Storage::none;
};

// A batch: contiguous arrays.
struct Call {
    const void* x;
    const void* residual;
    void* y;
    std::int64_t batch;
};

struct Range {
    std::int64_t begin, end;

    std::int64_t size() const { return end > begin ? end - begin : 0; }
};

// Some rows of one sample's results: pixels, for images. `x` begins with row `x_begin` of what is given, the other arrays
// with the first of the rows.
struct Strip {
    const void* x;
    std::int64_t x_begin;
    const void* residual;
    void* y;
    Range rows;
};

// What every layer does: take a batch of inputs to outputs. A run allocates nothing and changes nothing but the output
// and the workspace, so threads may run the same layer at once.
class Layer {
public:
    virtual ~Layer() = default;
    // Returns how many results were saturated. `workspace` has `workspace(batch)` bytes for each thread of the team.
    virtual std::int64_t run(const Call&, const Team&, unsigned char* workspace) const = 0;
    virtual std::size_t workspace(std::int64_t batch) const = 0;
    // How many numbers one run converts between binary16 and binary32, weights that are widened again included.
    virtual std::int64_t conversions(std::int64_t batch) const = 0;
    // Floating-point operations of the products that one run does, fewer than the layer's own with Winograd.
    virtual std::int64_t flops(std::int64_t batch) const = 0;
    virtual std::string routine(std::int64_t batch) const = 0;

    // Layers whose results depend on rows near them only can do some rows of a sample at a time, on the calling thread and
    // as a batch of one does: how many rows a sample's results have, 0 where it cannot, and its inputs; how many of
    // them are one line, of which no part is done or given; and what rows of the input some results need.
    virtual std::int64_t rows() const { return 0; }
    virtual std::int64_t input_rows() const { return rows(); }
    virtual std::int64_t input_rows_together() const { return 1; }
    virtual std::int64_t rows_together() const { return 1; }
    virtual Range reach(Range results) const { return results; }
    virtual std::int64_t run_rows(const Strip&, unsigned char*) const { return 0; }

    // Of `conversions`, those of the results and of what is added to them.
    std::int64_t other_size() const { return residual_size < 0 ? output_size : residual_size; }
    std::int64_t converted_results(std::int64_t batch) const {
        return batch * (output_size * stored.half_output + other_size() * (stored.residual == Storage::half));
    }

    std::int64_t input_size = 0, output_size = 0;  // numbers per sample
    std::int64_t residual_size = -1;               // of the other input; -1: as many as results
    std::int64_t weight_bytes = 0;                 // of packed weights
    Stored stored{};
};

using LayerPointer = std::shared_ptr<const Layer>;

// A linear map's parameters as they come: row-major weights (outputs, inputs), one scale and bias per output.
struct Affine {
    std::int64_t outputs, inputs;
    const void* weights;
    bool half;
    const float* scale;
    const float* bias;
    bool relu;
    Activation activation{};
};

// Geometry without the derived parts of `Convolution`.
struct Window {
    std::int64_t channels, height, width, out_height, out_width;
    std::int64_t kernel_height, kernel_width, stride_height, stride_width;
    std::int64_t pad_height, pad_width, dilation_height, dilation_width;
    std::int64_t groups;
    std::int64_t pad_bottom, pad_right;
};

struct PoolWindows {
    std::int64_t channels, height, width;
    std::vector<std::int64_t> row_start, row_end, column_start, column_end;
    bool average, relu;
    float divisor = 0.0f;
};

// Pairs of matrices: number (i, j) of the b-th one lies at offset[b] + i * step[0] + j * step[1].
struct Matrices {
    std::vector<std::int64_t> offsets;
    std::int64_t rows, columns, row_step, column_step;
};

// The routines that can be asked for, the one that always works first.
std::vector<std::string> linear_routines(const Routines&);
std::vector<std::string> convolution_routines(const Routines&, const Window&, std::int64_t outputs);

// Every one of them throws std::invalid_argument for a routine that cannot run the layer.
LayerPointer make_linear(const Routines&, const Affine&, Stored, const std::string& routine);
// The inputs of a convolution's weights are ordered (kernel row, kernel column, channel of the group).
LayerPointer make_convolution(const Routines&, const Affine&, const Window&, Stored, const std::string& routine);
LayerPointer make_winograd(const Routines&, const Affine&, const Window&, Stored, bool brain, int m);
LayerPointer make_depthwise(const Routines&, const Affine&, const Window&, Stored);
LayerPointer make_pooling(const Routines&, const PoolWindows&, Stored);
LayerPointer make_addition(const Routines&, std::int64_t size, bool relu, Activation, Stored);
// A function of every number, of its product with another one if there is a residual.
LayerPointer make_map(const Routines&, std::int64_t size, Activation, Stored);
LayerPointer make_scale(const Routines&, std::int64_t channels, std::int64_t pixels, Stored);
// Results chosen by place: from the input, then from the residual's `others`; -1 is zero.
LayerPointer make_gather(const Routines&, const std::int32_t* index, std::int64_t n, std::int64_t inputs,
                         std::int64_t others, Stored);
LayerPointer make_normalization(const Routines&, const float* weight, const float* bias, std::int64_t width,
                                std::int64_t rows, float epsilon, Stored);
LayerPointer make_softmax(const Routines&, std::int64_t width, std::int64_t rows, Stored);
LayerPointer make_product(const Routines&, Matrices, Matrices, float factor, std::int64_t inputs, std::int64_t others,
                          Stored);
// The same map for each of `rows_per_sample` rows of the input: a 1 x 1 convolution.
LayerPointer make_rows(const Routines&, const Affine&, Stored, const std::string& precision, std::int64_t rows_per_sample);
// Each of a batch of matrices, (rows, columns), transposed.
void transpose(const Routines&, const float* x, float* y, std::int64_t batch, std::int64_t rows, std::int64_t columns,
               const Team&);
// What follows the algorithm in a routine's name: "bf16", "split", or nothing for weights as they come.
std::string precision_of(const std::string& routine);

}  // namespace parsimony
