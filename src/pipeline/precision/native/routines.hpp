// The contract between the half-precision layers and the instruction sets.
//
// Every instruction set fills one `Routines` table in a translation unit of its own, compiled with its own flags; a
// table is called only after `available` said that the processor has it. Weights lie in *panels*, activations
// channels-last. `routine_bound` in error.py and `winograd_bound` in winograd.py bound what the routines may be off by,
// whatever the order of their sums.
//
//   panel layout   [panel][inputs][width], width = vectors * lanes, zeros behind the last output of a group: one
//                  sequential stream of weights for every routine, whatever the batch. Winograd: [panel][point][...].
//   activations    [image][row][column][channel], binary16 or binary32.
//   arithmetic     binary32 throughout; binary16 is how numbers are stored. y = scale * (W x) + bias + residual, then
//                  ReLU. `scale` holds powers of two, so the product is exact and each output is rounded once on the
//                  way out. The bfloat16 routines multiply pairs of bfloat16 and add in binary32; split ones
//                  do so with both halves of each binary16, which is exact but for 2^-16 of each product.
//   saturation     a result that binary16 cannot hold is stored as +-65504 and counted; NaN stays NaN.
//   threads        a call does one `Part` of the work with a scratch of its own. How an output is summed does not depend
//                  on the part it is in, so results are equal bit for bit whatever the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace parsimony {

using Half = std::uint16_t;       // the bits of an IEEE 754 binary16
using BrainPair = std::uint32_t;  // the bits of two bfloat16, the first one low

// Two binary16, each as the sum of two bfloat16. In a panel, a line of the pairs that are high is followed by the low ones.
struct SplitPair {
    BrainPair high, low;
};

struct Source {
    const void* data;
    bool half;
};

struct Target {
    void* data;
    bool half;
};

// What is applied to a result before it is stored; `a` and `b` are clip's bounds, leaky_relu's slope, elu's factor.
enum class Function : int {
    none, clip, leaky_relu, hard_sigmoid, hard_swish, sigmoid, silu, tanh, gelu, gelu_tanh, exp, square, sqrt, reciprocal,
    abs, log, elu, erf,
};
constexpr int n_functions = 18;

struct Activation {
    Function function = Function::none;
    float a = 0.0f, b = 0.0f;
};

struct Epilogue {
    const float* scale;  // padded to whole panels, like bias
    const float* bias;
    Source residual;  // shaped like the output; no data: none
    bool relu;
    Activation activation;  // where there is no ReLU
};

// Weights of `groups` groups that have `outputs` outputs each.
template <class Weight>
struct Panels {
    const Weight* data;
    std::int64_t groups;
    std::int64_t outputs;
    std::int64_t inputs;  // of one output; pairs of them if weights are
    int vectors;          // 1, 2 or 4 vectors wide
};

// What one call does: rows, images or tiles [begin, end), for the outputs of panels [panel_begin, panel_end).
struct Part {
    std::int64_t begin, end;
    std::int64_t panel_begin, panel_end;
};

struct Product {
    std::int64_t inputs;  // numbers per row of x
    bool vector;          // there is one row in all
    std::int64_t rows_per_block;
    std::int64_t inputs_per_block;
};

struct Convolution {
    std::int64_t channels, height, width;  // of the padded images less their padding
    std::int64_t out_height, out_width;
    std::int64_t kernel_height, kernel_width;
    std::int64_t stride_height, stride_width;
    std::int64_t pad_height, pad_width;    // above and to the left
    std::int64_t pad_bottom, pad_right;    // below and to the right
    std::int64_t dilation_height, dilation_width;
    std::int64_t group_channels;  // channels / groups
    std::int64_t image_channels;  // of the images that are read: one less than `channels` where a pair needs filling
    std::int64_t image_height, image_width;  // of the same, which are larger where
    std::int64_t every_row, every_column;    // only every so manieth row and column is read, or else 1
    // Where the taps start in a padded image; taps that are neighbors in memory form one run.
    const std::ptrdiff_t* runs;
    std::int64_t n_runs;
    std::int64_t run_length;
    std::int64_t images_per_block;
    // The lines of one image that inputs and results begin with, in depthwise convolutions.
    std::int64_t first_line, first_out_line;

    std::int64_t padded_height() const { return height + pad_height + pad_bottom; }
    std::int64_t padded_width() const { return width + pad_width + pad_right; }
    std::int64_t padded_size() const { return padded_height() * padded_width() * channels; }
};

// F(m x m, 3 x 3): tiles of m x m outputs from (m + 2) x (m + 2) inputs and products at as many points.
struct Winograd {
    int m;  // 2 or 4
    std::int64_t channels, height, width;
    std::int64_t inputs;  // of the products: channels, or pairs of them
    std::int64_t out_height, out_width;
    std::int64_t pad_height, pad_width;
    std::int64_t tiles_high, tiles_wide;
    std::int64_t tiles_per_block;

    std::int64_t points() const { return static_cast<std::int64_t>(m + 2) * (m + 2); }
    std::int64_t tiles_per_image() const { return tiles_high * tiles_wide; }
    // Distances between tiles and between points in the scratch. An odd number of cache lines spreads what is touched
    // at once over the sets of a cache.
    static std::int64_t odd_lines(std::int64_t n) { return ((n + 15) / 16 | 1) * 16; }
    std::int64_t tile_step() const { return odd_lines(inputs); }
    std::int64_t point_step() const { return odd_lines(tiles_per_block * tile_step()); }
    std::int64_t sum_step(std::int64_t panel_width) const { return odd_lines(tiles_per_block * panel_width); }
};

// Depthwise windows that blocks of outputs share inputs of.
constexpr int depthwise_block = 7;
static inline bool slides(const Convolution& shape) {
    const std::int64_t kernel = shape.kernel_width, stride = shape.stride_width;
    const bool known = (kernel == 1 && stride == 1) || ((kernel == 3 || kernel == 5) && (stride == 1 || stride == 2));
    return shape.kernel_height == kernel && known && shape.dilation_width == 1;
}

// Whether two lines of outputs are summed at once, and rows of the image that both need are loaded once: where there are
// registers for it.
static inline bool pairs_lines(const Convolution& shape, std::int64_t lanes) {
    return lanes >= 16 && slides(shape) && shape.stride_height == shape.stride_width && shape.dilation_height == 1;
}

struct Pooling {
    std::int64_t channels, height, width;
    std::int64_t out_height, out_width;
    // The window of output (i, j) is rows [row_start[i], row_end[i]) and columns [column_start[j], column_end[j]).
    const std::int64_t* row_start;
    const std::int64_t* row_end;
    const std::int64_t* column_start;
    const std::int64_t* column_end;
    bool average;  // the mean instead of the maximum
    bool relu;
    float divisor;  // what a mean divides by; 0: how many numbers its window holds

    // Whether maxima of binary16 numbers, stored as such, are found among their bits: vectors hold twice as many.
    bool compares_bits(std::int64_t lanes) const { return channels >= 2 * lanes; }
};

struct Scratch {
    float* activations;  // what is read many times, as binary32 (or pairs of bfloat16): a block of rows, padded images,
                         // transformed tiles
    float* panel;        // weights that are widened once and used often; null: widen in registers
    float* sums;         // of a block of rows or tiles, before the epilogue
};

// All return how many results were saturated.
template <class Weight>
struct WeightRoutines {
    std::int64_t (*multiply)(const Panels<Weight>&, const Epilogue&, const Product&, Source x, Target y, Part, Scratch);
    std::int64_t (*convolve)(const Panels<Weight>&, const Epilogue&, const Convolution&, Source x, Target y, Part,
                             Scratch);
    std::int64_t (*winograd)(const Panels<Weight>&, const Epilogue&, const Winograd&, Source x, Target y, Part, Scratch);
    // Every channel by itself; weights [tap][channel], parts of output rows.
    std::int64_t (*depthwise)(const Weight*, const Epilogue&, const Convolution&, Source x, Target y, Part);
};

struct Routines {
    const char* name;
    int lanes;
    // A panel of at most so many numbers that at least so many tiles use is widened once and not in every tile.
    std::int64_t widen_at_most, widen_from_tiles;
    int max_rows[3];  // rows of a register tile whose panel is 1, 2, 4 vectors wide; 0: not offered
    WeightRoutines<Half> half;
    WeightRoutines<float> single;
    WeightRoutines<BrainPair> brain;  // null where the processor has no such product; never depthwise, Winograd at m = 2 only
    WeightRoutines<SplitPair> split;  // null where a product of bfloat16 is not that much faster; products and direct only
    std::int64_t (*pool)(const Pooling&, Source x, Target y, Part);
    std::int64_t (*add)(Source x, Source residual, Target y, bool relu, Activation, Part);
    // Elements [begin, end): a function of each, and before that the product with another, where there is one.
    std::int64_t (*map)(Source x, Source factor, Target y, Activation, Part);
    // Rows [begin, end) of `n` numbers, each times its own of the n factors of the image that the row belongs to.
    std::int64_t (*scale)(Source x, Source factors, Target y, std::int64_t n, std::int64_t rows_per_image, Part);
    // Rows [begin, end) of `n` numbers: to mean 0 and variance 1, then times weight plus bias; or exp over the sum of exp.
    std::int64_t (*normalize)(Source x, Target y, const float* weight, const float* bias, std::int64_t n, float epsilon,
                              Part);
    std::int64_t (*softmax)(Source x, Target y, std::int64_t n, Part, float* row);
    // Units of a transposition of matrices of `rows` x `columns`; see transpose.inl.
    void (*transpose)(const float* x, float* y, std::int64_t rows, std::int64_t columns, Part);
    // Narrow or copy [begin, end) from binary32, saturating.
    std::int64_t (*store)(const float* x, Target y, Part);
    void (*half_to_float)(const Half*, float*, std::int64_t);
    void (*float_to_half)(const float*, Half*, std::int64_t);  // nearest even; beyond the range: infinity
    // What the processor can do at most; each returns how much it did, for the caller to divide by time.
    double (*peak_fma)(std::int64_t iterations);                    // floating-point operations
    double (*peak_pairs)(std::int64_t iterations);                  // the same of bfloat16; null where there are none
    double (*peak_convert)(const Half*, std::int64_t n);            // binary16 numbers
    double (*peak_read)(const float*, std::int64_t n, int kernel);  // bytes; n is a multiple of 256
};

constexpr int n_read_kernels = 3;
constexpr int max_routines = 8;

const Routines& portable_routines();
#ifdef PARSIMONY_X86
const Routines& avx2_routines();
const Routines& avx512_routines();
#endif
#ifdef PARSIMONY_AVX512_BF16
const Routines& avx512_bf16_routines();
#endif
#ifdef PARSIMONY_AMX
bool permits_tiles();  // whether the operating system lets this process use AMX
const Routines& amx_bf16_routines();
#endif
#ifdef PARSIMONY_AVX512_FP16
const Routines& avx512_fp16_routines();
#endif
#ifdef PARSIMONY_NEON
const Routines& neon_routines();
#endif

// The tables this processor can run, best first; `find` returns null for one that it cannot.
int available(const Routines* tables[], int capacity);
const Routines* find(const char* name);

}  // namespace parsimony
